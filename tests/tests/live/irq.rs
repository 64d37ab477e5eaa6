//! `irq` on this machine's own interrupts: one that hardly ever comes is moved, and put back.

use std::path::Path;

use serde_json::Value;

use super::*;

/// Puts back what was there, however the test ends.
struct Before {
    file: String,
    value: String,
}

impl Before {
    fn of(irq: &Value) -> Self {
        let file = format!("/proc/irq/{irq}/smp_affinity_list");
        let value = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self { file, value }
    }

    fn now(&self) -> CpuSet {
        fs::read_to_string(&self.file).expect("an interrupt").parse().expect("a list")
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        // Best effort: the test has failed already, or this changes nothing.
        let _ = fs::write(&self.file, &self.value);
    }
}

fn irq(journal: &Path, command: &str, more: &[&str]) -> Value {
    let mut args = vec!["irq".to_owned(), command.to_owned(), "--format".to_owned(), "json".to_owned()];
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    if command != "plan" {
        args.extend(["--journal".to_owned(), utf8(journal)]);
    }
    numa_agent_tests::agent::json(args)
}

#[test]
fn an_interrupt_of_this_machine_is_moved_and_put_back() {
    let Some(stage) = stage("irq") else { return };
    let journal = stage.dir.path().join("journal");
    let plan = irq(&journal, "plan", &[]);
    let quiet = |irq: &&Value| irq["name"].as_str().is_some_and(|name| name.ends_with("-config"));
    let movable = |irq: &&Value| irq["result"] == "planned" && irq["managed"] == false;
    let Some(found) = plan["irqs"].as_array().unwrap().iter().filter(quiet).find(movable) else {
        skip("irq", "no device of this machine has an interrupt for configuration changes that is off plan");
        return;
    };
    let before = Before::of(&found["irq"]);
    let number = found["irq"].to_string();
    let done = irq(&journal, "apply", &["--irq", &number]);
    assert_eq!(done["irqs"].as_array().map(Vec::len), Some(1), "{done}");
    let result = done["irqs"][0]["result"].as_str().unwrap();
    assert!(result == "set" || result.starts_with("set; still on"), "{done}");
    assert_eq!(before.now().to_string(), found["planned"].as_str().unwrap());
    let undone = irq(&journal, "restore", &[]);
    assert_eq!(undone["changes"][0]["result"], "restored", "{undone}");
    assert_eq!(before.now(), before.value.parse().unwrap());
}
