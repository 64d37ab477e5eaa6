//! Processes held between exec and their first instruction: what they see of it, and that nobody stays stopped, whoever dies.

mod cases;
mod faults;
mod first;
mod storm;

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent_tests::stopped::{elf_entry, program_counter, state};

use super::*;

/// Longer than any test waits for a hold's end that it does not ask for.
const LONG_MS: u32 = 10_000;

/// An agent that holds.
struct Holder {
    agent: Agent,
    guard: u32,
}

impl Holder {
    /// With so long a limit.
    fn start(stage: &Stage, limit_ms: u32) -> Self {
        Self::start_with(stage, &json!({ "hold_limit_ms": limit_ms }), &[])
    }

    /// With more keys and arguments.
    fn start_with(stage: &Stage, keys: &Value, args: &[&str]) -> Self {
        let mut config = stage.config();
        config["hold"] = json!(true);
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        stage.write_config(&config);
        let mut agent = stage.agent_with(args);
        let guard = next_guard(&mut agent, 0);
        Self { agent, guard }
    }

    /// What became of the hold of that process, its last if there were several.
    fn released(&mut self, pid: u32) -> Value {
        self.agent.wait_for("end of the hold", |event| is_release_of(event, pid));
        let events = self.agent.events();
        events.into_iter().rfind(|event| is_release_of(event, pid)).unwrap()
    }

    /// Stops the agent: it answers nobody, and its heartbeat will be over soon.
    fn freeze(&self) {
        self.agent.signal(Signal::SIGSTOP);
    }

    fn thaw(&self) {
        self.agent.signal(Signal::SIGCONT);
    }

    /// A process that is held, of an agent that is frozen.
    fn frozen_with_one_held(&self, stage: &Stage) -> Held {
        for _ in 0..20 {
            self.freeze();
            let mut one = Held(blink(stage).spawn().unwrap());
            // Its exec is over when `spawn` comes back; it has to get as far as to its stop.
            for _ in 0..200 {
                if state(one.pid()) == Some('T') {
                    return one;
                }
                if one.0.try_wait().unwrap().is_some() {
                    break;
                }
                sleep(Duration::from_millis(5));
            }
            // The machine was so slow that the heartbeat was over before.
            assert!(one.0.wait().unwrap().success());
            self.thaw();
            stage.barrier();
        }
        panic!("nobody is held");
    }
}

/// A process that may be stopped; it does not outlive the test.
struct Held(Child);

impl Held {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn ends_well(&mut self) {
        let status = wait(&mut self.0);
        assert!(status.success(), "{status}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let pid = child.id();
    eventually(|| child.try_wait().unwrap().ok_or_else(|| format!("{pid} is {:?}", state(pid))))
}

/// A worker that looks at itself and ends.
fn blink(stage: &Stage) -> Command {
    let mut command = stage.family.command("worker", 0);
    command.arg("--blink").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn is_release_of(event: &Value, pid: u32) -> bool {
    event["event"] == "released" && event["pid"] == pid
}

/// The pid of the guard that is ready, once it is another than `before`.
fn next_guard(agent: &mut Agent, before: u32) -> u32 {
    let ready =
        |event: &Value| event["event"] == "guard" && event["state"] == "ready" && event["pid"] != before;
    let guard = agent.wait_for("guard", ready);
    u32::try_from(guard["pid"].as_u64().unwrap()).unwrap()
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// The first look of each worker, which has to be on plan: mask and CPU.
fn assert_on_plan_from_the_first_look(stage: &Stage, workers: usize) {
    let records = stage.records();
    let first = records.iter().filter(|look| look.role == "worker" && look.point == Point::Main);
    let mut seen = 0;
    for look in first {
        assert!(look.cpus == stage.members && stage.members.contains(look.cpu), "{look:?}");
        seen += 1;
    }
    assert_eq!(seen, workers);
}
