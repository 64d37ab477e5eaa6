//! `bind --apply` on a running stack, without the agent.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use numa_agent_tests::agent;

use super::*;

fn args(stage: &Stage, more: &[&str]) -> Vec<String> {
    let mut args = vec!["bind".to_owned(), "--format".into(), "json".into()];
    args.extend(stage.args());
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args
}

fn results(report: &Value) -> BTreeSet<&str> {
    let threads = report["processes"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|process| process["threads"].as_array().unwrap());
    threads.map(|thread| thread["result"].as_str().unwrap()).collect()
}

#[test]
fn a_configuration_that_others_may_write_is_said_to_be_so() {
    let Some(stage) = stage("bind-config") else { return };
    for (mode, said) in [(0o666, true), (0o664, true), (0o644, false)] {
        fs::set_permissions(stage.config_path(), fs::Permissions::from_mode(mode)).unwrap();
        let warnings = agent::json(args(&stage, &[]))["warnings"].to_string();
        let text = format!("numa.json may be written by others (mode {mode:o})");
        assert_eq!(warnings.contains(&text), said, "{mode:o}: {warnings}");
    }
    // Nor where others could put another in its place, or in that of what it is a link to.
    let open = stage.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::rename(stage.config_path(), open.join("real.json")).unwrap();
    std::os::unix::fs::symlink("open/real.json", stage.config_path()).unwrap();
    for (mode, said) in [(0o777, true), (0o775, true), (0o1777, false), (0o755, false)] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let warnings = agent::json(args(&stage, &[]))["warnings"].to_string();
        let text = format!("numa.json: the folder {} may be written by others", open.display());
        assert_eq!(warnings.contains(&text), said, "{mode:o}: {warnings}");
    }
    fs::set_permissions(stage.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let warnings = agent::json(args(&stage, &[]))["warnings"].to_string();
    assert!(warnings.contains(&format!("the folder {} may be", stage.dir.path().display())), "{warnings}");
}

#[test]
fn bind_plans_then_applies_then_has_nothing_to_do() {
    let Some(stage) = stage("bind") else { return };
    let mut stack = stage.stack(1);
    stack.start_instance().unwrap();
    stack.start_instance().unwrap();

    let plan = agent::json(args(&stage, &[]));
    assert_eq!(results(&plan), BTreeSet::from(["planned"]));
    let planned: BTreeSet<u32> = plan["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| process["pid"].as_u64().unwrap() as u32)
        .collect();
    let motor = stage.records().iter().find(|look| look.role == "motor").unwrap().pid;
    assert_eq!(planned, stack.pids(0).into_iter().chain(stack.pids(1)).chain([motor]).collect());
    let groups: BTreeSet<_> = plan["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| (process["instance"].to_string(), process["group"].to_string()))
        .collect();
    assert_eq!(groups.len(), 3, "two instances with a group each, and Motor: {groups:?}");
    let since = now_ns();
    for pid in &planned {
        stage.settle_on(*pid, &stage.all);
    }
    assert!(stage.records().iter().all(|look| look.cpus == stage.all), "a dry run changes nothing");

    let applied = agent::json(args(&stage, &["--apply"]));
    assert_eq!(results(&applied), BTreeSet::from(["bound"]));
    let records = stage.settle();
    let hog = records.iter().find(|look| look.role == "hog").unwrap().pid;
    stage.assert_untouched(hog, &stage.all, since);
    let report = fs::read_to_string(stage.dir.path().join("report.md")).unwrap();
    for pid in &planned {
        assert!(report.contains(&pid.to_string()), "the report names {pid}");
    }

    let again = agent::json(args(&stage, &["--apply"]));
    assert_eq!(results(&again), BTreeSet::from(["unchanged"]));
    stage.settle();
    stack.stop().unwrap();
}
