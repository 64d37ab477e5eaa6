//! `cargo xtask pictures`: the pictures of the view in `docs/images`, by the code that draws it. Tests hold them against it.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{build::Build, sh};

/// Draws them anew.
///
/// # Errors
/// If something does not build, or a picture cannot be drawn or written.
pub fn run(tools: &Build) -> Result<()> {
    let picture = sh::run_for_output(&mut Command::new(tools.test_program("draw-watch")?))?;
    let path = sh::root().join("docs/images/watch.svg");
    std::fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    println!("drew {}", path.display());
    Ok(())
}
