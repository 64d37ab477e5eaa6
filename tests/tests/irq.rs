//! `irq`, on machines that are made up: what is planned, written, read back and undone.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use numa_agent::core::{preset::Preset, synthetic::Machine, topology::Topology};
use numa_agent_tests::{
    agent,
    irq_tree::{self, Function},
    irqbalance::Irqbalance,
};
use serde_json::Value;
use tempfile::TempDir;

/// Two NPUs, a card, a disk, a bridge, as on an A3 host.
const A3: [Function; 5] = [
    Function {
        address: "0000:c1:00.0",
        class: "0x120000",
        vendor: "0x19e5",
        node: 0,
        interface: None,
        irqs: &[(2750, "mailbox"), (2753, "sq_send_trigger_irq"), (2754, "cq_update_irq")],
    },
    Function {
        address: "0000:c2:00.0",
        class: "0x120000",
        vendor: "0x19e5",
        node: 7,
        interface: None,
        irqs: &[(3009, "sq_send_trigger_irq"), (3010, "cq_update_irq")],
    },
    Function {
        address: "0000:7d:00.0",
        class: "0x020000",
        vendor: "0x19e5",
        node: 1,
        interface: Some(("eth0", 2)),
        irqs: &[(500, "hns3-0000:7d:00.0-TxRx-0"), (501, "hns3-0000:7d:00.0-TxRx-1")],
    },
    Function {
        address: "0000:81:00.0",
        class: "0x010802",
        vendor: "0x144d",
        node: -1,
        interface: None,
        irqs: &[(600, "nvme0q0")],
    },
    Function {
        address: "0000:00:08.0",
        class: "0x060400",
        vendor: "0x19e5",
        node: 0,
        interface: None,
        irqs: &[(40, "PCIe PME")],
    },
];

/// A machine in a folder.
struct Host {
    dir: TempDir,
}

impl Host {
    fn new(topology: &Topology, functions: &[Function]) -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        irq_tree::write(topology, functions, &host.path("sys"), &host.path("proc"));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut process = agent::command(["irq", command]);
        if command != "restore" {
            process.arg("--sysfs-root").arg(self.path("sys")).arg("--procfs-root").arg(self.path("proc"));
            process.arg("--irqbalance-sockets").arg(self.path("sockets"));
        }
        if command != "plan" && !more.contains(&"--no-journal") {
            process.arg("--journal").arg(self.path("journal"));
        }
        process.args(more).output().expect("numa-agent starts")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file))
            .unwrap_or_else(|error| panic!("{file}: {error}"))
            .trim()
            .to_owned()
    }

    /// Where interrupts may go, and a queue's CPUs.
    fn values(&self) -> Vec<String> {
        let irqs = [500, 501, 2753].map(|irq| format!("proc/irq/{irq}/smp_affinity_list"));
        let queues =
            ["rx-0/rps_cpus", "tx-0/xps_cpus"].map(|queue| format!("sys/class/net/eth0/queues/{queue}"));
        irqs.iter().chain(&queues).map(|file| self.read(file)).collect()
    }

    fn json(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, &[more, &["--format", "json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command} {more:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command} {more:?}: {error}"))
    }
}

/// Planned CPUs by interrupt.
fn planned(report: &Value, irq: u32) -> &str {
    let irqs = report["irqs"].as_array().unwrap();
    let found = irqs.iter().find(|each| each["irq"] == irq).unwrap_or_else(|| panic!("IRQ {irq}: {report}"));
    found["planned"].as_str().unwrap()
}

#[test]
fn an_a3_hosts_interrupts_are_planned_onto_their_sockets_and_off_forward_threads() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    let plan = host.json("plan", &[]);
    assert_eq!((&plan["schema"], &plan["applied"]), (&1.into(), &false.into()));
    for (irq, cpu) in
        [(2753, "0"), (2754, "1"), (2750, "2"), (500, "3"), (3009, "240"), (3010, "241"), (600, "160")]
    {
        assert_eq!(planned(&plan, irq), cpu, "IRQ {irq}");
    }
    assert_eq!(plan["irqs"].as_array().unwrap().len(), 8);
    let left: Vec<&str> =
        plan["left"].as_array().unwrap().iter().map(|left| left["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["arch_timer", "PCIe PME", "Rescheduling interrupts"]);
    let queues = plan["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 4, "{plan}");
    let share = queues.iter().find(|queue| queue["queue"] == "tx-1/xps_cpus").unwrap();
    assert!(share["planned"].as_str().unwrap().starts_with("41,43,45"), "{share}");

    let config = host.path("config.toml");
    std::fs::write(&config, "irq = { cpus_per_socket = 2 }").unwrap();
    let reserved = host.json("plan", &["--config", config.to_str().unwrap(), "--device", "npu"]);
    assert_eq!(reserved["reserved_cpus"], "38-39,118-119,198-199,278-279");
    assert_eq!([2753, 2754, 3009, 3010].map(|irq| planned(&reserved, irq)), ["38", "39", "278", "279"]);
    assert_eq!(reserved["irqs"].as_array().unwrap().len(), 5, "the NPUs' alone");
    // What is set aside is nobody else's.
    let bind = agent::json(
        [
            "bind",
            "--preset",
            "a3",
            "--config",
            config.to_str().unwrap(),
            "--report",
            "/dev/null",
            "--format",
            "json",
        ]
        .map(str::to_owned),
    );
    assert_eq!(bind["groups"][3]["primary_cpus"], "32-37");
}

#[test]
fn text_shows_the_same_and_what_is_left_alone() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    let output = host.run("plan", &["--irq", "2753"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for words in
        ["sq_send_trigger_irq", "0000:c1:00.0 npu", "0-319", "group processes' too, on node 0", "dry run"]
    {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains("cq_update_irq") && text.contains("no PCI device's"), "{text}");
}

#[test]
fn what_is_not_there_is_told() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    let stderr = |args: &[&str]| {
        let output = host.run("plan", args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    let told = stderr(&["--device", "zzz"]);
    for words in ["--device zzz matches none of", "0000:c1:00.0 npu", "0000:7d:00.0 network eth0"] {
        assert!(told.contains(words), "no {words:?} in {told}");
    }
    assert!(!stderr(&["--device", "npu"]).contains("matches none"));
    let config = host.path("config.toml");
    fs::write(&config, "irq = { cpus = '38-39,400' }").unwrap();
    let told = stderr(&["--config", config.to_str().unwrap()]);
    assert!(told.contains("irq.cpus: CPUs 400 are not online here"), "{told}");
}

#[test]
fn a_tree_that_tar_has_filled_up_reads_as_it_was() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    let plan = host.json("plan", &[]);
    for file in ["proc/irq/2753/smp_affinity_list", "sys/devices/pci0000:00/0000:c1:00.0/class"] {
        let text = fs::read_to_string(host.path(file)).unwrap();
        fs::write(host.path(file), format!("{text}{}", "\0".repeat(4096 - text.len()))).unwrap();
    }
    assert_eq!(host.json("plan", &[]), plan);
    // What is nothing at all is not said in full.
    fs::write(host.path("proc/irq/2753/smp_affinity_list"), "\u{1b}x".repeat(4096)).unwrap();
    let output = host.run("plan", &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("proc/irq/2753/smp_affinity_list") && !stderr.contains('\u{1b}'), "{stderr}");
    assert!(stderr.len() < 2000, "{} bytes", stderr.len());
    fs::write(host.path("proc/irq/2753/smp_affinity_list"), "0-319").unwrap();
    fs::create_dir_all(host.path("sys/kernel/irq/2753")).unwrap();
    fs::write(host.path("sys/kernel/irq/2753/actions"), "\u{1b}x".repeat(4096)).unwrap();
    let text = String::from_utf8(host.run("plan", &[]).stdout).unwrap();
    assert!(text.lines().all(|line| line.len() < 400), "{text}");
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_it() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    std::fs::write(host.path("proc/irq/2753/smp_affinity_list"), "0-x\n").unwrap();
    let output = host.run("plan", &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("proc/irq/2753/smp_affinity_list") && stderr.contains("0-x"), "{stderr}");
    std::fs::remove_file(host.path("proc/interrupts")).unwrap();
    let output = host.run("plan", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("proc/interrupts"), "{stderr}");
    assert_eq!(stderr.matches("No such file").count(), 1, "{stderr}");
}

/// A machine that fits on this one: two nodes with a CPU each.
fn small() -> Host {
    let topology = Machine { sockets: 2, cores_per_node: 1, ..Machine::default() }.topology();
    let functions =
        [Function { node: 1, ..A3[2] }, Function { irqs: &[(2753, "sq_send_trigger_irq")], ..A3[0] }];
    Host::new(&topology, &functions)
}

fn results(report: &Value, list: &str) -> Vec<String> {
    let all = report[list].as_array().unwrap_or_else(|| panic!("no {list}: {report}"));
    all.iter().map(|each| each["result"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_applied_is_read_back_and_restored() {
    let host = small();
    let before = host.values();
    let done = host.json("apply", &[]);
    assert_eq!(results(&done, "irqs"), ["set"; 3], "{done}");
    assert_eq!(
        host.values(),
        ["1", "1", "0", "0", "00000002"],
        "node 1's card on node 1, node 0's NPU on node 0"
    );
    // Again: nothing to do, and what it had at first is what it gets back.
    assert_eq!(results(&host.json("apply", &[]), "irqs"), ["unchanged"; 3]);
    let dry = host.json("restore", &["--dry-run"]);
    assert_eq!(results(&dry, "changes"), ["planned"; 5], "{dry}");
    assert_ne!(host.values(), before);
    let undone = host.json("restore", &[]);
    assert_eq!(results(&undone, "changes"), ["restored"; 5], "{undone}");
    assert_eq!(host.values(), before);
    assert_eq!(host.json("restore", &[])["changes"], Value::Array(Vec::new()), "it is struck");
}

#[test]
fn only_what_is_chosen_is_touched() {
    let host = small();
    let before = host.values();
    host.json("apply", &["--irq", "501"]);
    let after = host.values();
    assert_eq!((after[0].as_str(), after[1].as_str()), (before[0].as_str(), "1"));
    assert_eq!(after[2..], before[2..]);
}

#[test]
fn what_others_have_set_since_stays() {
    let host = small();
    host.json("apply", &[]);
    fs::write(host.path("proc/irq/500/smp_affinity_list"), "0\n").unwrap();
    fs::remove_dir_all(host.path("proc/irq/501")).unwrap();
    let undone = host.json("restore", &[]);
    let mut results = results(&undone, "changes");
    results.sort();
    assert_eq!(results, ["changed", "gone", "restored", "restored", "restored"]);
    assert_eq!(host.read("proc/irq/500/smp_affinity_list"), "0");
}

#[test]
fn a_refused_write_is_named_and_the_others_go_on() {
    let host = small();
    // A mask that not even root can write.
    let file = host.path("sys/devices/pci0000:00/0000:7d:00.0/net/eth0/queues/rx-1/rps_cpus");
    fs::remove_file(&file).unwrap();
    symlink("/sys/devices/system/cpu/cpu0/topology/thread_siblings", &file).unwrap();
    let output = host.run("apply", &[]);
    let (text, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        text.contains("rx-1/rps_cpus")
            && text.contains("cannot write")
            && stderr.contains("1 interrupt or queue"),
        "{text}{stderr}"
    );
    assert_eq!(host.read("proc/irq/500/smp_affinity_list"), "1");
}

#[test]
fn without_a_journal_nothing_is_changed() {
    let host = small();
    let before = host.values();
    fs::create_dir(host.path("journal")).unwrap();
    let output = host.run("apply", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("journal") && stderr.contains("--no-journal"), "{stderr}");
    assert_eq!(host.values(), before);
    host.json("apply", &["--no-journal"]);
    assert_ne!(host.values(), before);
}

#[test]
fn another_machines_plan_is_shown_and_not_applied() {
    let host = Host::new(&Preset::A3.topology(), &A3);
    let output = host.run("apply", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("not online here"), "{stderr}");
    assert_eq!(host.read("proc/irq/2753/smp_affinity_list"), "0-319");
}

#[test]
fn irqbalance_is_told_once_and_keeps_its_own_bans() {
    let host = small();
    let irqbalance = Irqbalance::start(&host.path("proc"), &host.path("sockets"), 4242, &[9, 500]);
    let plan = host.json("plan", &[]);
    assert_eq!(results(&plan, "irqbalance"), ["would be told to leave 2 of them alone"], "{plan}");
    assert_eq!(irqbalance.bans(), [9, 500].into());
    let done = host.json("apply", &[]);
    assert_eq!(
        (&done["irqbalance"][0]["pid"], &done["irqbalance"][0]["keeps_off"]),
        (&4242.into(), &true.into())
    );
    assert_eq!(irqbalance.bans(), [9, 500, 501, 2753].into());
    assert_eq!(results(&host.json("apply", &[]), "irqbalance"), ["leaves them alone already"]);
    host.json("restore", &[]);
    assert_eq!(irqbalance.bans(), [9, 500].into(), "500 was banned before");
}

#[test]
fn an_irqbalance_that_is_stopped_holds_nothing_up() {
    let host = small();
    let irqbalance = Irqbalance::start(&host.path("proc"), &host.path("sockets"), 88, &[]);
    let stopped = irqbalance.stop();
    let began = Instant::now();
    let output = host.run("apply", &["--device", "npu"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("process 88") && stderr.contains("no answer in 5s"), "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(stopped);
}

#[test]
fn an_irqbalance_that_is_stopped_is_not_gone_whatever_socket_it_has() {
    let [new, old] = [(); 2].map(|()| small());
    // No process has a number like that, nor a test that runs beside this one.
    let pid = u32::MAX - std::process::id();
    let new_one = Irqbalance::start(&new.path("proc"), &new.path("sockets"), pid, &[9]);
    let old_one = Irqbalance::start_old(&old.path("proc"), pid, &[9]);
    for (host, irqbalance) in [(new, new_one), (old, old_one)] {
        host.json("apply", &[]);
        assert_eq!(irqbalance.bans(), [9, 500, 501, 2753].into());
        let stopped = irqbalance.stop();
        let output = host.run("restore", &[]);
        let (text, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{text}{stderr}");
        assert!(text.contains("no answer in 5s"), "{text}");
        drop(stopped);
        // It is still owed.
        assert_eq!(results(&host.json("restore", &[]), "changes"), ["restored"]);
        assert_eq!(irqbalance.bans(), [9].into());
    }
}

#[test]
fn an_irqbalance_that_cannot_be_told_is_a_warning_with_the_way_out() {
    let host = small();
    fs::create_dir_all(host.path("proc/77")).unwrap();
    fs::write(host.path("proc/77/comm"), "irqbalance\n").unwrap();
    let output = host.run("apply", &["--device", "npu"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("process 77") && stderr.contains("IRQBALANCE_ARGS=\"--banirq=2753\""),
        "{stderr}"
    );
}

#[test]
fn what_was_changed_by_a_relative_path_or_a_link_is_undone_from_elsewhere() {
    let host = small();
    let before = host.values();
    for (name, link) in [("proc", "to-proc"), ("sys", "to-sys")] {
        symlink(host.path(name), host.path(link)).unwrap();
    }
    let mut apply = agent::command(["irq", "apply", "--procfs-root", "to-proc", "--sysfs-root", "./to-sys"]);
    apply.args(["--irqbalance-sockets", "sockets", "--journal"]).arg(host.path("journal"));
    let output = apply.current_dir(host.dir.path()).output().expect("numa-agent starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(host.values(), before);
    for link in ["to-proc", "to-sys"] {
        fs::remove_file(host.path(link)).unwrap();
    }
    host.json("restore", &[]);
    assert_eq!(host.values(), before);
}

#[test]
fn one_root_alone_would_mix_two_machines() {
    let host = small();
    let before = host.values();
    for (root, name) in [("--sysfs-root", "sys"), ("--procfs-root", "proc")] {
        for command in ["plan", "apply"] {
            let output =
                agent::command(["irq", command, root]).arg(host.path(name)).output().expect("it starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("-root <DIR>"), "{said}");
        }
    }
    assert_eq!(host.values(), before);
}

#[test]
fn a_journal_that_is_not_there_is_no_success() {
    for command in [&["irq", "restore"][..], &["restore"]] {
        let output = agent::run(command.iter().chain(&["--journal", "/nonexistent/journal"]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("/nonexistent/journal") && said.contains("nothing is undone"), "{said}");
    }
}
