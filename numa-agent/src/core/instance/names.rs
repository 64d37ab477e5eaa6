//! What people call a container, from what runtimes leave on disk. Best effort: each reader takes what it knows, and nothing else.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ContainerRef;

/// What people call a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Names {
    /// Its name; within its pod, if it is in one.
    pub name: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
}

/// A container, and what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which one.
    pub container: ContainerRef,
    /// Its names, where they are known.
    pub names: Names,
}

/// The annotations in which runtimes keep container, pod and namespace: containerd's and CRI-O's (also dockershim's labels).
const KEYS: [[&str; 3]; 2] = [
    [
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace",
    ],
    ["io.kubernetes.container.name", "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"],
];

impl Names {
    /// From the `config.json` of an OCI bundle, as containerd and CRI-O make it.
    #[must_use]
    pub fn of_bundle(config: &str) -> Self {
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        config["annotations"].as_object().map(Self::of_labels).unwrap_or_default()
    }

    /// From docker's `config.v2.json`.
    #[must_use]
    pub fn of_docker(config: &str) -> Self {
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let names = config["Config"]["Labels"].as_object().map(Self::of_labels).unwrap_or_default();
        let own = config["Name"].as_str().map(|name| name.trim_start_matches('/').to_owned());
        Self { name: names.name.or(own.filter(|name| !name.is_empty())), ..names }
    }

    /// From the command line of conmon, which stands by each container of podman's and CRI-O's: its name.
    #[must_use]
    pub fn of_conmon<'a>(mut arguments: impl Iterator<Item = &'a str>) -> Self {
        let name =
            arguments.find(|argument| ["-n", "--name"].contains(argument)).and_then(|_| arguments.next());
        Self { name: name.map(str::to_owned), ..Self::default() }
    }

    /// From the kubelet's name of a pod's folder of logs, `NAMESPACE_POD_UID`.
    #[must_use]
    pub fn of_logs(folder: &str, uid: &str) -> Option<Self> {
        let (namespace, pod) = folder.strip_suffix(uid)?.strip_suffix('_')?.split_once('_')?;
        Some(Self { name: None, pod: Some(pod.to_owned()), namespace: Some(namespace.to_owned()) })
    }

    fn of_labels(labels: &Map<String, Value>) -> Self {
        let value = |key: &str| labels.get(key)?.as_str().map(str::to_owned);
        let found = KEYS.iter().map(|[name, pod, namespace]| Self {
            name: value(name),
            pod: value(pod),
            namespace: value(namespace),
        });
        found.into_iter().find(|names| *names != Self::default()).unwrap_or_default()
    }

    /// These, and from `others` what is missing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            name: self.name.or(others.name),
            pod: self.pod.or(others.pod),
            namespace: self.namespace.or(others.namespace),
        }
    }
}

impl Container {
    /// For people, not escaped: `inference/vllm-0 engine (containerd 3f4a5b6c7d8e)`, `docker 3f4a5b6c7d8e`.
    #[must_use]
    pub fn label(&self) -> String {
        let id = format!("{} {}", self.container.runtime, self.container.short);
        let pod = match (&self.names.namespace, &self.names.pod) {
            (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
            (_, pod) => pod.clone(),
        };
        let names: Vec<String> = pod.into_iter().chain(self.names.name.clone()).collect();
        if names.is_empty() { id } else { format!("{} ({id})", names.join(" ")) }
    }

    /// What to call an instance of that name which is in it: a path of cgroups tells people nothing more.
    #[must_use]
    pub fn rename(&self, instance: &str) -> String {
        match instance.strip_prefix("cgroup:") {
            Some(_) => self.label(),
            None => format!("{instance}, {}", self.label()),
        }
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (container, names) = (&self.container, &self.names);
        let pod = container
            .pod
            .as_ref()
            .map(|uid| json!({ "uid": uid, "name": names.pod, "namespace": names.namespace }));
        json!({ "runtime": container.runtime, "id": container.id, "name": names.name, "pod": pod })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::instance::container_of;

    fn some(name: &str, pod: &str, namespace: &str) -> Names {
        let value = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Names { name: value(name), pod: value(pod), namespace: value(namespace) }
    }

    #[test]
    fn what_runtimes_write_is_understood() {
        let containerd = r#"{"ociVersion": "1.1.0", "annotations": {"io.kubernetes.cri.container-name": "engine",
            "io.kubernetes.cri.sandbox-name": "vllm-0", "io.kubernetes.cri.sandbox-namespace": "inference"}}"#;
        assert_eq!(Names::of_bundle(containerd), some("engine", "vllm-0", "inference"));
        let crio = r#"{"annotations": {"io.kubernetes.container.name": "engine", "io.kubernetes.pod.name": "vllm-0",
            "io.kubernetes.pod.namespace": "inference", "other": 1}}"#;
        assert_eq!(Names::of_bundle(crio), some("engine", "vllm-0", "inference"));
        assert_eq!(
            Names::of_docker(r#"{"Name": "/engine", "Config": {"Labels": {}}}"#),
            some("engine", "", "")
        );
        let shim = r#"{"Name": "/k8s_engine_vllm-0", "Config": {"Labels": {"io.kubernetes.container.name": "engine",
            "io.kubernetes.pod.name": "vllm-0", "io.kubernetes.pod.namespace": "inference"}}}"#;
        assert_eq!(Names::of_docker(shim), some("engine", "vllm-0", "inference"));
        let conmon =
            ["/usr/bin/conmon", "--api-version", "1", "-c", "ID", "-n", "engine", "--exit-dir", "/x"];
        assert_eq!(Names::of_conmon(conmon.into_iter()), some("engine", "", ""));
        let logs = Names::of_logs("inference_vllm-0_2c48-913c", "2c48-913c");
        assert_eq!(logs, Some(some("", "vllm-0", "inference")));
        assert_eq!(Names::of_logs("inference_vllm-0_2c48-913c", "913c"), None);
        for rubbish in ["", "[]", "{", r#"{"annotations": 7, "Name": 7, "Config": {"Labels": []}}"#] {
            assert_eq!(Names::of_bundle(rubbish).or(Names::of_docker(rubbish)), Names::default());
        }
    }

    #[test]
    fn a_label_has_what_is_known() {
        let id = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";
        let container = container_of(&format!("/docker/{id}")).unwrap();
        let label = |names| Container { container: container.clone(), names }.label();
        let plain = Container { container: container.clone(), names: Names::default() };
        assert_eq!(plain.rename("cgroup:/docker/3f4a"), "docker 3f4a5b6c7d8e");
        assert_eq!(plain.rename("env:X=1"), "env:X=1, docker 3f4a5b6c7d8e");
        assert_eq!(label(some("engine", "", "")), "engine (docker 3f4a5b6c7d8e)");
        assert_eq!(
            label(some("engine", "vllm-0", "inference")),
            "inference/vllm-0 engine (docker 3f4a5b6c7d8e)"
        );
    }
}
