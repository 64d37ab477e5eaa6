//! An agent that holds processes at exec, its guard, and those that are held.
//!
//! Made for tests: what goes wrong is a panic that says what.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{agent::Agent, cast::Cast, eventually, stopped::state};

/// Longer than any test waits for a hold's end that it does not ask for.
pub const LONG_MS: u32 = 10_000;

/// The agent, and its guard.
#[derive(Debug)]
pub struct Holder {
    /// It.
    pub agent: Agent,
    /// The guard's pid.
    pub guard: u32,
}

impl Holder {
    /// Adds `hold` and `keys` to a configuration, has the agent started with it, and waits until its guard is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(cast: &Cast, mut config: Value, keys: &Value, start: impl FnOnce() -> Agent) -> Self {
        config["hold"] = json!(true);
        config["hold_limit_ms"] = json!(LONG_MS);
        config.as_object_mut().expect("a table").extend(keys.as_object().expect("a table").clone());
        cast.write_config(&config);
        let mut agent = start();
        let guard = next_guard(&mut agent, 0);
        Self { agent, guard }
    }

    /// What became of the hold of that process, its last if there were several.
    ///
    /// # Panics
    /// If nothing did in time.
    pub fn released(&mut self, pid: u32) -> Value {
        self.agent.wait_for("end of the hold", |event| is_release_of(event, pid));
        let events = self.agent.events();
        events.into_iter().rfind(|event| is_release_of(event, pid)).expect("it was there")
    }

    /// Stops the agent: it answers nobody, and its heartbeat will be over soon.
    pub fn freeze(&self) {
        self.agent.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.agent.signal(Signal::SIGCONT);
    }

    /// A process that is held, of an agent that is frozen.
    ///
    /// # Panics
    /// If nobody is ever held.
    #[must_use]
    pub fn frozen_with_one_held(&self, cast: &Cast) -> Held {
        for _ in 0..20 {
            self.freeze();
            let mut one = Held::start(blink(cast));
            // Its exec is over when it has been started; it has to get as far as to its stop.
            if one.stops() {
                return one;
            }
            // The machine was so slow that the heartbeat was over before.
            one.ends_well();
            self.thaw();
            sleep(Duration::from_millis(500));
        }
        panic!("nobody is held");
    }
}

/// A process that may be stopped; it does not outlive the test.
#[derive(Debug)]
pub struct Held(Child);

impl Held {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("a process starts"))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has.
    ///
    /// # Panics
    /// If somebody else has waited for it.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_some()
    }

    /// Whether it is stopped within two seconds.
    ///
    /// # Panics
    /// If somebody else has waited for it.
    pub fn stops(&mut self) -> bool {
        for _ in 0..400 {
            if state(self.pid()) == Some('T') {
                return true;
            }
            if self.has_ended() {
                return false;
            }
            sleep(Duration::from_millis(5));
        }
        false
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that does not come in time.
    pub fn end(&mut self) -> ExitStatus {
        let pid = self.pid();
        eventually(|| {
            let ended = self.0.try_wait().expect("our child");
            ended.ok_or_else(|| format!("{pid} is {:?}", state(pid)))
        })
    }

    /// Waits for its end, which has to be a good one.
    ///
    /// # Panics
    /// If it is not.
    pub fn ends_well(&mut self) {
        let status = self.end();
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

/// A worker that looks at itself and ends.
#[must_use]
pub fn blink(cast: &Cast) -> Command {
    let mut command = cast.family.command("worker", 0);
    command.arg("--blink").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Whether it is the end of a hold of that process.
#[must_use]
pub fn is_release_of(event: &Value, pid: u32) -> bool {
    event["event"] == "released" && event["pid"] == pid
}

/// The pid of the guard that is ready, once it is another than `before`.
///
/// # Panics
/// If there is none in time.
pub fn next_guard(agent: &mut Agent, before: u32) -> u32 {
    let ready =
        |event: &Value| event["event"] == "guard" && event["state"] == "ready" && event["pid"] != before;
    let guard = agent.wait_for("guard", ready);
    guard["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")
}

/// Waits until there is no such process.
///
/// # Panics
/// If it stays.
pub fn is_gone(pid: u32) {
    eventually(|| state(pid).is_none().then_some(()).ok_or_else(|| format!("{pid} stays")));
}

/// Sends a process a signal.
///
/// # Panics
/// If it is gone.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is there");
}
