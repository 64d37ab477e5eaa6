//! Keeps verifiers' numbers that tests have printed, in `tests/data/verifier.json`: `.. | keep-verifier`.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, ensure};
use numa_agent_tests::verifier::{self, Kept};

fn main() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/verifier.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut kept: Kept = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut lines = 0;
    for line in io::stdin().lines() {
        let line = line.context("standard input")?;
        let Some(measured) = verifier::from_line(&line) else { continue };
        let measured = measured.with_context(|| format!("not the whole line: {line}"))?;
        println!("{}, Linux {}: {} programs", measured.arch, measured.kernel, measured.instructions.len());
        verifier::keep(&mut kept, measured);
        lines += 1;
    }
    ensure!(
        lines > 0,
        "standard input has no line `verifier: {{..}}`: run the tests of `programs` with --nocapture"
    );
    let text = serde_json::to_string_pretty(&kept).context("plain data")? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
