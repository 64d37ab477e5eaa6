//! Threads that take no name, as Python's, are known by the device that they use.

use std::os::unix::fs::symlink;

use super::*;

/// What stands in for an NPU, and is used by nobody else here.
const DEVICE: &str = "/dev/full";

impl Stage {
    /// Configures the device files with that name in the stage's folder.
    fn configure_devices(&self, name: &str) {
        let mut config = self.config();
        config["forward_thread_devices"] = json!([utf8(&self.dir.path().join(name))]);
        self.write_config(&config);
    }

    fn use_device(&self, puppet: &mut Puppet, tid: u32) {
        let path = utf8(&self.dir.path().join("npu0"));
        puppet.order(&Order::UseDevice { tid, path }).expect("use the device");
    }
}

#[test]
fn threads_without_names_are_known_by_the_device_that_they_use() {
    let Some(stage) = stage("devices") else { return };
    symlink(DEVICE, stage.dir.path().join("npu0")).unwrap();
    stage.configure_devices("npu[0-9]*");
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let pid = puppet.pid();
    let [user, other] = [(); 2].map(|()| puppet.order(&Order::Thread { from: pid, name: None }).unwrap());
    stage.settle_on(user, &stage.members);
    stage.use_device(&mut puppet, user);
    stage.settle_on(user, &stage.forward);
    // It asked before it was moved, and its like has not asked.
    stage.settle_on(other, &stage.members);
    stage.settle_on(pid, &stage.members);
    // A child of its own is another thread until it asks.
    let child = puppet.order(&Order::Thread { from: user, name: None }).unwrap();
    stage.settle_on(child, &stage.members);
    stage.use_device(&mut puppet, child);
    stage.settle_on(child, &stage.forward);
    // A program that has used nothing begins as a member.
    stage.use_device(&mut puppet, pid);
    stage.settle_on(pid, &stage.forward);
    puppet.exec("scheduler").unwrap();
    stage.settle_on(pid, &stage.members);
    stage.use_device(&mut puppet, pid);
    stage.settle_on(pid, &stage.forward);
    // A scan finds no forward thread here; the agent knows them.
    let checked = super::check::check(&stage, &["--socket", &utf8(&agent.socket())]).0;
    for id in ["B3", "B4"] {
        assert_eq!(super::check::item(&checked, id)["verdict"], "pass", "{checked:#}");
    }
    agent.stop();
}

#[test]
fn a_device_that_comes_with_a_reload_is_looked_for() {
    let Some(stage) = stage("devices-later") else { return };
    stage.configure_devices("no*");
    let mut agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let user = puppet.order(&Order::Thread { from: puppet.pid(), name: None }).unwrap();
    symlink(DEVICE, stage.dir.path().join("npu0")).unwrap();
    stage.use_device(&mut puppet, user);
    stage.settle_on(user, &stage.members);
    stage.configure_devices("npu*");
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    agent.wait_for("the reload", |event| event["event"] == "reloaded");
    stage.use_device(&mut puppet, user);
    stage.settle_on(user, &stage.forward);
    agent.stop();
}
