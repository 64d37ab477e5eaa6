//! A real Prometheus: its server and `promtool`, from `PATH`, or out of the distribution's package without installing it (which would
//! start a service). Fetched when a test wants it and kept in cargo's target directory.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{eventually, http};

/// The programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server.
    pub prometheus: PathBuf,
    /// The tool that checks.
    pub promtool: PathBuf,
}

/// The programs, or a visible `SKIP:` line where they are out of reach.
///
/// # Panics
/// If they are out of reach and `NUMA_AGENT_FORBID_SKIP` is 1.
#[must_use]
pub fn programs_or_skip() -> Option<Programs> {
    match programs() {
        Ok(programs) => Some(programs),
        Err(why) => {
            crate::skip(&format!("Prometheus (apt-get download prometheus): {why}"));
            None
        }
    }
}

/// The programs, fetched if this is the first time.
///
/// # Errors
/// What was out of reach, in words.
pub fn programs() -> Result<Programs, String> {
    let within = |dir: &Path| {
        let programs = Programs { prometheus: dir.join("prometheus"), promtool: dir.join("promtool") };
        (programs.prometheus.is_file() && programs.promtool.is_file()).then_some(programs)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(installed) = std::env::split_paths(&path).find_map(|dir| within(&dir)) {
        return Ok(installed);
    }
    // target/debug/deps/test-0123
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = exe.ancestors().nth(3).ok_or("no target directory above the test program")?;
    let dir = target.join("prometheus");
    if !dir.is_dir() {
        // Made whole, then renamed: another test program may be doing the same.
        let work = tempfile::tempdir_in(target).map_err(|error| error.to_string())?;
        run(Command::new("apt-get").args(["download", "-q", "prometheus"]).current_dir(work.path()))?;
        let package = fs::read_dir(work.path()).map_err(|error| error.to_string())?.next();
        let package = package.ok_or("no package")?.map_err(|error| error.to_string())?.path();
        run(Command::new("dpkg").arg("-x").arg(package).arg(work.path().join("out")))?;
        match fs::rename(work.path().join("out/usr/bin"), &dir) {
            Err(error) if !dir.is_dir() => return Err(format!("{}: {error}", dir.display())),
            _ => (),
        }
    }
    within(&dir).ok_or_else(|| format!("{} has no prometheus and promtool", dir.display()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {}", stderr.trim()))
}

/// A server that scrapes one target every second.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Server {
    /// Starts it, with these rules.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn start(programs: &Programs, target: SocketAddr, rules: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs: [{{job_name: numa-agent, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        fs::write(&config, text).expect("write the configuration");
        let mut child = Command::new(&programs.prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=logfmt"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.find_map(|line| {
            let address =
                line.contains("Listening on").then(|| line.split("address=").nth(1)?.trim().parse().ok());
            said.push(line);
            address.flatten()
        });
        let address =
            address.unwrap_or_else(|| panic!("prometheus does not say where it listens: {said:#?}"));
        // It goes on writing.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _dir: dir }
    }

    /// What the HTTP API says there, its `data`; `Err` while it does not.
    ///
    /// # Errors
    /// What it says instead.
    pub fn api(&self, path: &str) -> Result<Value, String> {
        let answer = http::get(self.address, path, "*/*").map_err(|error| error.to_string())?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|_| answer.body.clone())?;
        if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
    }

    /// Waits until a query has an answer that fits; its series.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn query(&self, query: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut escaped = String::new();
        query.bytes().for_each(|byte| escaped += &format!("%{byte:02x}"));
        eventually(|| {
            let data = self.api(&format!("/api/v1/query?query={escaped}"))?;
            let series = data["result"].as_array().cloned().unwrap_or_default();
            if fits(&series) { Ok(series) } else { Err(format!("{query}: {series:?}")) }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
