//! Reports of what is measured, as files: a report for people, and beside it the recording that `jitter report` and
//! `jitter compare` read.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use crate::{
    core::jitter::{
        draft::{Draft, Frame},
        file,
        recording::Recording,
    },
    host::files,
    report::{escape, jitter},
};

/// Where reports go, and when.
#[derive(Debug, Clone)]
pub struct Reports {
    /// The report; its ending says in which format.
    pub path: PathBuf,
    /// How often.
    pub every: Option<Duration>,
}

/// Where the recording of a report goes: `x.md` has `x.recording.json` beside it.
#[must_use]
pub fn recording_beside(report: &Path) -> PathBuf {
    report.with_extension("recording.json")
}

/// Writes both.
///
/// # Errors
/// If one cannot be written; names it.
pub fn write(path: &Path, draft: Draft, frame: Frame) -> anyhow::Result<()> {
    let recording = draft.recording(frame);
    let beside = recording_beside(path);
    let put = |path: &Path, text: String| {
        files::write_whole(path, text.as_bytes()).with_context(|| {
            format!("cannot write {}; choose another place with --jitter-report", path.display())
        })
    };
    put(&beside, escape::json(&file::print(&recording)))?;
    put(path, render(path, &recording))
}

/// In the format that the ending names.
fn render(path: &Path, recording: &Recording) -> String {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("html" | "htm") => jitter::html(recording),
        Some("json") => jitter::json(recording),
        Some("txt") => jitter::text(recording),
        _ => jitter::markdown(recording),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_never_takes_the_reports_place() {
        for (report, recording) in
            [("a/x.md", "a/x.recording.json"), ("x.json", "x.recording.json"), ("x", "x.recording.json")]
        {
            assert_eq!(recording_beside(Path::new(report)), Path::new(recording));
        }
    }
}
