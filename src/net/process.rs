//! Figures of the process, from the files that Linux shows below `/proc`. Those that cannot be read are left out.
//!
//! Each answer costs three small files and two system calls, with any number of descriptors: listing `/proc/self/fd`
//! would take a microsecond for each.

use std::fs;

use super::clock::process_cpu_time;
use crate::admin::Exposition;

pub(super) struct Process {
    /// Start of the server, in seconds since the Unix epoch. Not that of the process by `/proc/stat`, which a sandbox hides.
    started: f64,
}

impl Process {
    pub(super) fn new(unix_micros: u64) -> Process {
        Process { started: unix_micros as f64 / 1e6 }
    }

    pub(super) fn write_metrics(&self, metrics: &mut Exposition) {
        let cpu = process_cpu_time().as_secs_f64();
        metrics.counter("process_cpu_seconds_total", "CPU time of the process, user and system.", cpu);
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            if let Some(value) = value {
                metrics.gauge(name, help, value);
            }
        };
        gauge("process_start_time_seconds", "Start of the process since the Unix epoch.", Some(self.started));
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let [virtual_bytes, resident_bytes] = memory(&statm, rustix::param::page_size());
        gauge("process_resident_memory_bytes", "Resident memory.", resident_bytes);
        gauge("process_virtual_memory_bytes", "Virtual memory.", virtual_bytes);
        gauge("process_open_fds", "Open file descriptors. Linux 6.2 or newer.", open_descriptors());
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_max_fds", "Limit of open file descriptors.", max_descriptors(&limits));
    }
}

/// Number of open descriptors, which is the size of the folder since Linux 6.2. Before it is 0.
fn open_descriptors() -> Option<f64> {
    fs::metadata("/proc/self/fd").ok().map(|fds| fds.len() as f64).filter(|&count| count > 0.0)
}

/// Virtual and resident memory in `/proc/self/statm`, which counts pages.
fn memory(statm: &str, page_bytes: usize) -> [Option<f64>; 2] {
    let mut pages = statm.split(' ').map(|count| count.parse::<f64>().ok());
    [(); 2].map(|()| Some(pages.next()?? * page_bytes as f64))
}

/// The soft limit of descriptors in the lines of `/proc/self/limits`.
fn max_descriptors(limits: &str) -> Option<f64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_linux_are_parsed() {
        assert_eq!(memory("2003 17 1 1 0 300 0\n", 4096), [Some(8_204_288.0), Some(69_632.0)]);
        assert_eq!(memory("", 4096), [None, None]);
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            {soft}                 524288               files     \n"
            )
        };
        assert_eq!(max_descriptors(&limits("1024")), Some(1024.0));
        assert_eq!(max_descriptors(&limits("unlimited")), Some(f64::INFINITY));
        assert_eq!(max_descriptors(""), None);
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Not before Linux 6.2.
        let Some(before) = open_descriptors() else { return };
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").expect("descriptors are free")).collect();
        let opened = open_descriptors().expect("it was counted before") - before;
        // Other tests open and close files meanwhile.
        assert!(opened > 50.0, "{opened} of {}", files.len());
    }
}
