//! Agents that are killed while programs start and end by the hundred.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;

/// How often the agent is killed, unless `NUMA_AGENT_KILLS` says otherwise.
const KILLS: u32 = 20;
/// Who is held goes on within this time.
const GRACE: Duration = Duration::from_secs(1);

/// Starts programs that match, one after the other, until it is told to end: each must end as it should. Where the shell waits by itself,
/// and where it runs the program in its own place.
fn storm(tag: &str, number: u32, over: &AtomicBool, ended: &AtomicU64) {
    let marker = format!("--role worker --tag {tag} ");
    for round in 0u32.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let code = (round * 7 + number) % 100;
        let script = match round % 2 {
            0 => format!("exit {code}"),
            _ => format!("sh -c 'exit {code}' '{marker}' & wait $!"),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &script, &marker]).stdin(Stdio::null());
        let status = Held::start(command).end();
        assert_eq!(status.code(), Some(i32::try_from(code).unwrap()), "{script}: {status}");
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Processes of the storm that are stopped.
fn stopped_ones(tag: &str) -> Vec<u32> {
    let entries =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).contains(tag)
    };
    entries.filter(ours).filter(|pid| state(*pid) == Some('T')).collect()
}

#[test]
fn killed_agents_leave_nobody_stopped_in_a_storm() {
    let Some(stage) = stage("hold-storm") else { return };
    let kills = std::env::var("NUMA_AGENT_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let tag = &stage.family.tag;
    let (over, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut held_when_killed = 0;
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (over, ended) = (&over, &ended);
            scope.spawn(move || storm(tag, number, over, ended));
        }
        // However it ends, the storm does.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        for round in 0..kills {
            let mut holder = inject(&stage);
            holder.agent.wait_for("a hold", |event| event["event"] == "released");
            sleep(Duration::from_micros(u64::from(round) * 137 % 5000));
            if round % 2 == 0 {
                // So that somebody is held as it dies.
                holder.freeze();
                sleep(Duration::from_millis(5));
            }
            held_when_killed += u32::from(!stopped_ones(tag).is_empty());
            let _ = holder.agent.end_by(Signal::SIGKILL);
            let before = ended.load(Ordering::Relaxed);
            sleep(GRACE);
            assert_eq!(stopped_ones(tag), Vec::<u32>::new(), "after kill {round}");
            assert!(ended.load(Ordering::Relaxed) > before, "the storm goes on after kill {round}");
        }
    });
    println!(
        "{kills} agents killed, {held_when_killed} of them with somebody held; {ended:?} programs ended as they should"
    );
    assert!(held_when_killed * 4 >= kills, "{held_when_killed} of {kills} killed with somebody held");
}
