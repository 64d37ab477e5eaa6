//! Containers, told from cgroup paths alone: no runtime is asked.

/// The container that a cgroup path lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// `docker`, `containerd`, `cri-o`, `podman`, `isulad`; `kubernetes` or `container` where the path does not say which.
    /// Another runtime's own prefix where it follows the custom of `NAME-ID.scope`.
    pub runtime: String,
    /// The full id, 64 hexadecimal digits.
    pub id: String,
    /// Its first 12 digits, as the runtimes' tools print it.
    pub short: String,
    /// The container's own cgroup: the path up to and including the id.
    pub cgroup: String,
    /// The uid of its Kubernetes pod, as the API has it; of a pod of the node's own (static), a hash.
    pub pod: Option<String>,
}

/// Length of a container id: the OCI runtimes that we know all use a hexadecimal SHA-256.
const ID_LENGTH: usize = 64;

/// The innermost container of a cgroup path (a container in a container, as in `kind`, is one of its own); v1 and v2,
/// `systemd` and `cgroupfs` drivers.
#[must_use]
pub fn container_of(path: &str) -> Option<ContainerRef> {
    let mut found = None;
    let mut end = 0;
    for component in path.split('/') {
        end += component.len();
        if let Some((prefix, id)) = split_component(component) {
            let above = &path[..end - component.len()];
            found = Some(ContainerRef {
                runtime: runtime(prefix, component, above),
                id: id.to_owned(),
                short: id[..12].to_owned(),
                cgroup: path[..end].to_owned(),
                pod: pod_of(above.trim_matches('/').rsplit('/').next().unwrap_or(""), component),
            });
        }
        end += 1;
    }
    found
}

/// The prefix (possibly empty) and the id of a component that names a container.
fn split_component(component: &str) -> Option<(&str, &str)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let split = name.len().checked_sub(ID_LENGTH).filter(|at| name.is_char_boundary(*at))?;
    let (prefix, id) = name.split_at(split);
    let hex = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // containerd without its own cgroup namespace writes `SLICE:cri-containerd:ID`.
    let prefix = match prefix.strip_suffix(['-', ':']) {
        Some(prefix) => prefix.rsplit(':').next().unwrap_or(prefix),
        None if prefix.is_empty() => prefix,
        None => return None,
    };
    // The monitor of a container stands beside it, not in it.
    (hex && !prefix.ends_with("conmon")).then_some((prefix, id))
}

/// The uid of the pod whose cgroup is `parent` (`podUID`, `kubepods-burstable-podUID.slice`), or is named with the container's own
/// (`kubepods-podUID.slice:cri-containerd:ID`). A slice's name has underscores for hyphens.
fn pod_of(parent: &str, component: &str) -> Option<String> {
    let slice = component.split_once(':').map_or(parent, |(slice, _)| slice);
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let in_slice = || Some(name.strip_prefix("kubepods")?.rsplit_once("-pod")?.1);
    let uid = name.strip_prefix("pod").or_else(in_slice).filter(|uid| !uid.is_empty())?;
    Some(uid.replace('_', "-"))
}

fn runtime(prefix: &str, component: &str, above: &str) -> String {
    let parents = || above.trim_matches('/').split('/');
    let name = match prefix {
        "docker" => "docker",
        "cri-containerd" | "nerdctl" | "containerd" => "containerd",
        "crio" => "cri-o",
        "libpod" => "podman",
        "" if parents().next_back() == Some("docker") => "docker",
        "" if parents().next_back() == Some("isulad") => "isulad",
        "" if parents().next_back() == Some("libpod_parent") => "podman",
        "" if parents().any(|parent| parent.starts_with("kubepods")) || component.starts_with("kubepods") => {
            "kubernetes"
        }
        "" => "container",
        other => other,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";
    const POD: &str = "pod2c48913c_b29f_11e7_9350_020968147796";

    #[test]
    fn the_runtimes_paths_are_known() {
        let kubepods = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{POD}.slice");
        for (path, runtime, tail) in [
            // docker: cgroupfs driver, systemd driver, with a systemd of its own inside, in docker
            (format!("/docker/{ID}"), "docker", ""),
            (format!("/system.slice/docker-{ID}.scope"), "docker", ""),
            (format!("/docker/{ID}/system.slice/sshd.service"), "docker", "/system.slice/sshd.service"),
            (format!("/docker/{}/docker/{ID}", "0".repeat(64)), "docker", ""),
            // Kubernetes: containerd and CRI-O, systemd driver
            (format!("{kubepods}/cri-containerd-{ID}.scope"), "containerd", ""),
            (format!("{kubepods}/crio-{ID}.scope"), "cri-o", ""),
            (format!("{kubepods}/crio-{ID}.scope/container"), "cri-o", "/container"),
            (format!("{kubepods}/docker-{ID}.scope"), "docker", ""),
            // cgroupfs driver, guaranteed and burstable
            (format!("/kubepods/burstable/pod2c48913c-b29f-11e7-9350-020968147796/{ID}"), "kubernetes", ""),
            (format!("/kubepods/pod2c48913c-b29f-11e7-9350-020968147796/{ID}"), "kubernetes", ""),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-burstable-{POD}.slice:cri-containerd:{ID}"
                ),
                "containerd",
                "",
            ),
            // seen from another cgroup namespace
            (format!("/../cri-containerd-{ID}.scope"), "containerd", ""),
            // Kubernetes in docker
            (format!("/docker/{}/kubelet/kubepods/besteffort/podx/{ID}", "0".repeat(64)), "kubernetes", ""),
            // nerdctl and ctr
            (format!("/system.slice/nerdctl-{ID}.scope"), "containerd", ""),
            (format!("/k8s.io/{ID}"), "container", ""),
            // podman, by root and by users, v2 with its inner group, cgroupfs
            (format!("/machine.slice/libpod-{ID}.scope"), "podman", ""),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
                ),
                "podman",
                "/container",
            ),
            (format!("/libpod_parent/libpod-{ID}"), "podman", ""),
            // openEuler's iSulad, and a runtime that we never heard of
            (format!("/isulad/{ID}"), "isulad", ""),
            (format!("/system.slice/youki-{ID}.scope"), "youki", ""),
        ] {
            let container = container_of(&path).unwrap_or_else(|| panic!("{path} is a container's"));
            assert_eq!((container.runtime.as_str(), container.id.as_str()), (runtime, ID), "{path}");
            assert_eq!(container.short, "3f4a5b6c7d8e", "{path}");
            assert_eq!(format!("{}{tail}", container.cgroup), path);
            let uid = match (path.contains(POD), path.contains("podx")) {
                (true, _) => Some("2c48913c-b29f-11e7-9350-020968147796"),
                (_, true) => Some("x"),
                _ if path.starts_with("/kubepods/") => Some("2c48913c-b29f-11e7-9350-020968147796"),
                _ => None,
            };
            assert_eq!(container.pod.as_deref(), uid, "{path}");
        }
    }

    #[test]
    fn other_cgroups_are_no_containers() {
        for path in [
            "/".to_owned(),
            String::new(),
            "/init.scope".into(),
            "/system.slice/docker.service".into(),
            "/system.slice/containerd.service".into(),
            "/user.slice/user-1000.slice/session-2.scope".into(),
            "/system.slice/run-r0123456789abcdef0123456789abcdef.scope".into(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/kubepods.slice/crio-conmon-{ID}.scope"),
            format!("/kubepods.slice/kubepods-{POD}.slice"),
            format!("/x/{}", &ID[1..]),
            format!("/x/a{ID}"),
            format!("/x/{}", ID.to_uppercase()),
            format!("/x/{}é{}", "0".repeat(30), "0".repeat(33)),
        ] {
            assert_eq!(container_of(&path), None, "{path}");
        }
    }
}
