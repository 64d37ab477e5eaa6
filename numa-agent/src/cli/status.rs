//! `numa-agent status`.

use std::{path::PathBuf, time::Instant};

use clap::Args;

use super::Format;
use crate::{
    core::{
        idset::NodeSet,
        instance::Container,
        memory::verify::Verified,
        task::TaskId,
        view::{self, Group, Line, Process, Request, Status},
    },
    host::{client, container, numa_maps, sysfs},
    report::{self, memory::Row},
};

/// Flags of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if an agent answered; 1 if none did, or we may not look (root and the members of the socket's group may); 2 bad usage.")]
pub struct StatusArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
    /// Also verify memory: policy and pages by node of each process in the plan, read here and now. The kernel walks all its
    /// page tables for that, and its mappings stand still meanwhile.
    #[arg(long)]
    memory: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Asks the agent, and prints what it says.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let status = match client::connect(&args.socket, Request::Status)?.answer()? {
        Line::Status(status) => status,
        _ => anyhow::bail!(
            "the agent at {} answers with something other than its state",
            args.socket.display()
        ),
    };
    let containers: Vec<Option<Container>> = status.groups.iter().map(container_of).collect();
    let memory = if args.memory { verify(&status, &sysfs::read_host()?.memory_nodes()) } else { Vec::new() };
    super::print(&match args.format {
        Format::Text => {
            let rows = memory.iter().map(|((group, process), verified)| {
                let (pid, comm, group) = (process.pid, process.comm.as_str(), Some(group.as_str()));
                Row { pid, comm, group, memory: verified }
            });
            report::status::text(&labelled(&status, &containers)) + &report::memory::text(rows)
        }
        Format::Json => {
            let mut value = serde_json::to_value(&status)?;
            let groups = value["groups"].as_array_mut().into_iter().flatten();
            for (group, container) in groups.zip(&containers) {
                group["container"] = container.as_ref().map(Container::json).into();
            }
            let processes = value["groups"].as_array_mut().into_iter().flatten();
            let processes = processes.filter_map(|group| group["processes"].as_array_mut()).flatten();
            for (process, (_, verified)) in processes.zip(&memory) {
                process["memory"] = report::memory::json(verified);
            }
            report::json::print(&value)
        }
    })
}

/// The container that all of a group's processes are in, as far as we can tell who they are.
fn container_of(group: &Group) -> Option<Container> {
    let mut ids = group.processes.iter().map(|one| TaskId { tid: one.pid, start_time: one.start_time });
    let first = container::of(ids.next()?)?;
    ids.all(|id| container::id_of(id).as_ref() == Some(&first.container.id)).then_some(first)
}

/// The same for people: who sits in a group is called by the container's name.
fn labelled(status: &Status, containers: &[Option<Container>]) -> Status {
    let mut status = status.clone();
    for (group, container) in status.groups.iter_mut().zip(containers) {
        if let (Some(container), Some(instance)) = (container, &mut group.instance) {
            *instance = container.rename(instance);
        }
    }
    status
}

/// A process of a group, and what its memory came to.
type Found<'a> = ((&'a String, &'a Process), Verified);

/// The memory of each process of each group, one after the other. `holders` are the nodes that have memory.
fn verify<'a>(status: &'a Status, holders: &NodeSet) -> Vec<Found<'a>> {
    let start = Instant::now();
    let processes =
        status.groups.iter().flat_map(|group| group.processes.iter().map(move |one| (group, one)));
    let verified = processes.map(|(group, process)| {
        let id = TaskId { tid: process.pid, start_time: process.start_time };
        let left = numa_maps::PATIENCE.saturating_sub(start.elapsed());
        let read = numa_maps::read(id, left).map_err(|why| why.to_string());
        let planned = group.memory.as_ref().and_then(|policy| policy.parse().ok());
        ((&group.name, process), Verified::new(planned, read, holders))
    });
    verified.collect()
}
