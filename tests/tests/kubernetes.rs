//! What is shipped for Kubernetes: the rule in the manifest's configuration knows a pod by its cgroup, whoever made that.

use std::{fs, path::Path};

use numa_agent::core::{
    config::Overrides,
    instance::container_of,
    rules::Rules,
    settings::Settings,
    task::{ProcessFacts, ProcessRole},
};

/// The configuration in the shipped manifest.
fn shipped() -> Rules {
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../numa-agent/packaging/kubernetes/configmap.yaml"));
    let manifest = fs::read_to_string(path).unwrap();
    let (_, block) =
        manifest.split_once("  config.toml: |\n").expect("the configuration, to the manifest's end");
    let toml: String =
        block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    let settings = Settings::from_sources(Some(("config.toml", &toml)), Overrides::default());
    Rules::new(settings.unwrap_or_else(|error| panic!("{error}:\n{toml}")))
}

/// What a process with that command line in that cgroup is.
fn role(rules: &Rules, cgroup: &str, cmdline: &str) -> Option<ProcessRole> {
    let facts = ProcessFacts {
        pid: 7,
        start_time: 1,
        comm: "python3".to_owned(),
        cmdline: cmdline.into(),
        cgroup: Some(cgroup.to_owned()),
        ..ProcessFacts::default()
    };
    rules.process_role(&facts)
}

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
/// As it is in a slice's name.
const SLICE: &str = "2c48913c_b29f_11e7_9350_020968147796";
/// Of a pod of the node's own.
const HASH: &str = "8ba1a2b3c4d5e6f708192a3b4c5d6e7f";
const ID: &str = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";
const ENGINE: &str = "python3 -m vllm.entrypoints.openai.api_server";

#[test]
fn the_shipped_rule_knows_pods_of_every_driver_and_cgroup_version() {
    let rules = shipped();
    let slice = format!("kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice");
    for path in [
        // systemd driver, v2 and the v1 controllers' alike: containerd, CRI-O, docker; guaranteed
        format!("/kubepods.slice/{slice}/cri-containerd-{ID}.scope"),
        format!("/kubepods.slice/{slice}/crio-{ID}.scope"),
        format!("/kubepods.slice/{slice}/docker-{ID}.scope"),
        format!("/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
        // the kubelet's driver is systemd, and containerd's is not
        format!("/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{ID}"),
        // cgroupfs driver, v1 and v2: burstable, best effort, guaranteed, of the node's own
        format!("/kubepods/burstable/pod{UID}/{ID}"),
        format!("/kubepods/besteffort/pod{UID}/{ID}"),
        format!("/kubepods/pod{UID}/{ID}"),
        format!("/kubepods/burstable/pod{HASH}/{ID}"),
        // a kubelet that has a cgroup of its own, as in kind
        format!("/kubelet/kubepods/burstable/pod{UID}/{ID}"),
        format!(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope"
        ),
        // from a cgroup namespace of the agent's own: beside it, in another class, in the same pod
        format!("/../../../{slice}/cri-containerd-{ID}.scope"),
        format!("/../../kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
        format!("/../../pod{UID}/{ID}"),
        format!("/../../../burstable/pod{UID}/{ID}"),
        format!("/../../../pod{HASH}/{ID}"),
    ] {
        assert_eq!(role(&rules, &path, ENGINE), Some(ProcessRole::Group), "{path}");
        assert_eq!(role(&rules, &path, "python3 train.py"), None, "{path}: another program");
        // So each container is an instance.
        assert!(container_of(&path).is_some(), "{path}");
    }
}

#[test]
fn the_shipped_rule_leaves_alone_what_is_in_no_pod() {
    let rules = shipped();
    for path in [
        "/".to_owned(),
        "/system.slice/vllm.service".to_owned(),
        "/user.slice/user-1000.slice/session-2.scope".to_owned(),
        format!("/docker/{ID}"),
        format!("/machine.slice/libpod-{ID}.scope"),
        format!("/libpod_parent/libpod-{ID}/podman/x"),
        "/system.slice/pod-install/x".to_owned(),
        // a user's, by any name
        "/user.slice/user-1000.slice/user@1000.service/kubepods/x".to_owned(),
        format!("/user.slice/user-1000.slice/user@1000.service/pod{UID}/{ID}"),
    ] {
        assert_eq!(role(&rules, &path, ENGINE), None, "{path}");
    }
}
