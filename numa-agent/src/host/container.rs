//! What people call the container of a process: read from what its runtime has on disk, without asking any daemon.
//!
//! Only for those who show it: the agent's loop does not come here.

use std::{
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{
    procfs::cgroup_of,
    sys::{Host, Kernel as _},
};
use crate::core::{
    instance::{Container, ContainerRef, Names, container_of},
    task::TaskId,
};

/// How far up a process's ancestors its container's monitor may be.
const MAX_ANCESTORS: usize = 32;
/// Longer no container's description is, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Where docker keeps containers.
const DOCKER: &str = "var/lib/docker/containers";
/// Where containerd keeps bundles, by namespace.
const CONTAINERD: &str = "run/containerd/io.containerd.runtime.v2.task";
/// Where the kubelet keeps logs, by pod.
const LOGS: &str = "var/log/pods";

/// The container of a process, with what can be read of its names; `None` if it is in none, or gone.
#[must_use]
pub fn of(process: TaskId) -> Option<Container> {
    let container = container(process)?;
    let names = Names::default()
        .or(beside(process.tid, &container))
        .or(on_disk(Path::new("/"), &container))
        .or(logged(Path::new("/"), &container));
    Some(Container { container, names })
}

/// The id of a process's container.
#[must_use]
pub fn id_of(process: TaskId) -> Option<String> {
    Some(container(process)?.id)
}

fn container(process: TaskId) -> Option<ContainerRef> {
    let container = container_of(&cgroup_of(process.tid)?)?;
    (Host.start_time(process.tid) == Some(process.start_time)).then_some(container)
}

/// From the process that stands by it, conmon of podman and CRI-O: its arguments, and the bundle that they name.
fn beside(pid: u32, container: &ContainerRef) -> Names {
    let mut at = pid;
    for _ in 0..MAX_ANCESTORS {
        let Ok(process) = procfs::process::Process::new(at.cast_signed()) else { break };
        let arguments = process.cmdline().unwrap_or_default();
        let is_conmon = arguments.first().is_some_and(|program| program.ends_with("conmon"));
        if is_conmon && arguments.contains(&container.id) {
            let bundle =
                arguments.iter().position(|argument| ["-b", "--bundle"].contains(&argument.as_str()));
            let bundle = bundle.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
            let config = bundle.and_then(|bundle| read(&bundle.join("config.json")));
            let own = Names::of_conmon(arguments.iter().map(String::as_str));
            return config.map(|config| Names::of_bundle(&config)).unwrap_or_default().or(own);
        }
        match process.stat().map(|stat| u32::try_from(stat.ppid)) {
            Ok(Ok(parent)) if parent > 1 => at = parent,
            _ => break,
        }
    }
    Names::default()
}

/// A regular file of ordinary length. Anybody may stand beside a process and name a bundle: what would keep us waiting, or has no end, is
/// not read.
fn read(path: &Path) -> Option<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .ok()?;
    let is_ordinary = file.metadata().is_ok_and(|facts| facts.is_file() && facts.len() <= MAX_CONFIG);
    let mut text = String::new();
    (is_ordinary && file.take(MAX_CONFIG).read_to_string(&mut text).is_ok()).then_some(text)
}

/// From the files of the runtimes that have a place for them.
fn on_disk(root: &Path, container: &ContainerRef) -> Names {
    let docker = read(&root.join(DOCKER).join(&container.id).join("config.v2.json"));
    let spaces = fs::read_dir(root.join(CONTAINERD)).into_iter().flatten().flatten();
    let bundle =
        spaces.map(|space| space.path().join(&container.id).join("config.json")).find_map(|path| read(&path));
    let bundle = bundle.map(|config| Names::of_bundle(&config)).unwrap_or_default();
    docker.map(|config| Names::of_docker(&config)).unwrap_or_default().or(bundle)
}

/// From the kubelet's folders of logs, which have a pod's names and id.
fn logged(root: &Path, container: &ContainerRef) -> Names {
    let Some(uid) = &container.pod else { return Names::default() };
    let folders = fs::read_dir(root.join(LOGS)).into_iter().flatten().flatten();
    let mut names = folders.filter_map(|folder| Names::of_logs(folder.file_name().to_str()?, uid));
    names.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";
    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    #[test]
    fn names_are_found_where_runtimes_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |folder: &str, file: &str, text: &str| {
            let folder = dir.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
        };
        let in_pod = container_of(&format!("/kubepods/burstable/pod{UID}/{ID}")).unwrap();
        assert_eq!(on_disk(dir.path(), &in_pod).or(logged(dir.path(), &in_pod)), Names::default());
        fs::create_dir_all(dir.path().join(LOGS).join(format!("inference_vllm-0_{UID}"))).unwrap();
        let names = logged(dir.path(), &in_pod);
        assert_eq!((names.pod.as_deref(), names.namespace.as_deref()), (Some("vllm-0"), Some("inference")));
        let config = r#"{"annotations": {"io.kubernetes.cri.container-name": "engine"}}"#;
        put(&format!("{CONTAINERD}/k8s.io/{ID}"), "config.json", config);
        assert_eq!(on_disk(dir.path(), &in_pod).name.as_deref(), Some("engine"));
        put(&format!("{DOCKER}/{ID}"), "config.v2.json", r#"{"Name": "/docked"}"#);
        let docked = container_of(&format!("/docker/{ID}")).unwrap();
        assert_eq!(on_disk(dir.path(), &docked).name.as_deref(), Some("docked"));
    }

    #[test]
    fn only_ordinary_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "{}").unwrap();
        assert_eq!(read(&at("file")).as_deref(), Some("{}"));
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("link")).unwrap();
        fs::File::create(at("long")).unwrap().set_len(MAX_CONFIG + 1).unwrap();
        for name in ["pipe", "link", "long", "none"] {
            assert_eq!(read(&at(name)), None, "{name}");
        }
        assert_eq!(read(Path::new("/dev/zero")), None);
    }

    #[test]
    fn a_process_in_no_container_has_none() {
        let tid = std::process::id();
        let start_time = Host.start_time(tid).unwrap();
        let cgroup = cgroup_of(tid).unwrap_or_default();
        assert_eq!(of(TaskId { tid, start_time }).is_some(), container_of(&cgroup).is_some());
        assert_eq!(of(TaskId { tid, start_time: start_time + 1 }), None);
    }
}
