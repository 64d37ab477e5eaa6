//! Which capabilities the agent keeps once its programs are in force and its socket is made. Those it gives up, a mistake in it cannot use.
//!
//! It happens before other threads are started, but for the one that writes messages, which keeps none.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use caps::Capability;

use super::{Options, Socket};
use crate::{
    core::settings::Settings,
    host::{capabilities, sys},
};

/// What following and binding other users' processes takes: their masks; their executables, environments, files and memory
/// (two capabilities: one for the process, one for the files' permissions); signals to those that are held; and where `kernel.unprivileged_bpf_disabled`
/// is set, before 5.19, each look into a map.
const ALWAYS: [Capability; 5] = [
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_KILL,
    Capability::CAP_BPF,
];

/// How likely the kernel is to end us where memory runs out.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Gives up the rest, and no reload gets it back.
pub(super) fn give_up(options: &Options, settings: &Settings) {
    let socket = match &options.socket {
        Socket::At(path) => Some(path),
        Socket::Default | Socket::None => None,
    };
    let report = options.jitter.reports.as_ref().map(|reports| &reports.path);
    let foreign = [socket, report, options.journal.as_ref()].into_iter().flatten().any(|path| !is_ours(path));
    let keep = needed(settings, foreign);
    let score = fs::read_to_string(OOM_SCORE);
    // How low it was set with CAP_SYS_RESOURCE it may be set again without, by the guard, which inherits that. Refused without rights.
    let _ = fs::write(OOM_SCORE, "-1000");
    if let Err(error) = capabilities::keep_only(&keep) {
        tracing::warn!("the agent keeps capabilities that it does not need: {error}");
    }
    let _ = score.map(|score| fs::write(OOM_SCORE, score));
}

/// `foreign`: it writes into folders of other users'.
fn needed(settings: &Settings, foreign: bool) -> Vec<Capability> {
    let mut keep = ALWAYS.to_vec();
    if settings.hold.inject {
        // For threads with a seccomp filter, which is suspended meanwhile.
        keep.push(Capability::CAP_SYS_ADMIN);
    }
    if settings.cpusets || foreign {
        // A user's own containers have cgroups of the user's.
        keep.push(Capability::CAP_DAC_OVERRIDE);
    }
    keep
}

/// Whether the nearest folder above `path` that is there is our own user's.
fn is_ours(path: &Path) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let folder = path.ancestors().skip(1).find_map(|folder| fs::metadata(folder).ok());
    folder.is_some_and(|facts| facts.uid() == sys::own_uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::Overrides;

    #[test]
    fn what_is_configured_decides_what_is_kept() {
        let settings = |text| Settings::from_sources(Some(("c.toml", text)), Overrides::default()).unwrap();
        let none = settings("");
        let injecting = settings("memory.apply = 'inject'");
        let fencing = settings("memory.apply = 'cpuset'");
        let has = |settings, foreign, capability| needed(settings, foreign).contains(&capability);
        assert!(has(&none, false, Capability::CAP_KILL) && has(&none, false, Capability::CAP_BPF));
        for (settings, foreign, admin, overrides) in [
            (&none, false, false, false),
            (&injecting, false, true, false),
            (&fencing, false, false, true),
            (&none, true, false, true),
        ] {
            assert_eq!(has(settings, foreign, Capability::CAP_SYS_ADMIN), admin);
            assert_eq!(has(settings, foreign, Capability::CAP_DAC_OVERRIDE), overrides);
        }
    }

    #[test]
    fn a_folder_is_ours_or_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_ours(&dir.path().join("new/folder/report.md")));
        assert_eq!(is_ours(Path::new("/proc/1/x")), sys::own_uid() == 0);
    }
}
