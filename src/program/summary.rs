//! What a configuration needs, in a few lines for the log and for `lobbyd check`.

use lobbyd::Config;

/// Files of the server itself: listeners, poll, waker, timer, signals, journal, standard streams, and one in reserve.
const OWN_DESCRIPTORS: u64 = 32;

/// Returns the limits in force, and the memory and the file descriptors that they allow.
pub(crate) fn summary(config: &Config) -> Vec<String> {
    let limits = Config::FIELDS.iter().filter(|field| field.name.starts_with("max_"));
    let limits: Vec<String> = limits.map(|field| format!("{}={}", field.name, (field.show)(config))).collect();
    let without_bound = || "without a bound, since a limit is unlimited".to_owned();
    let memory = config.worst_case_memory().map(|bytes| format!("{} MiB", bytes.div_ceil(1 << 20)));
    let operators =
        config.admin.map_or(0, |_| u64::from(config.max_admin_connections) + u64::from(config.max_admin_pending));
    let descriptors = config.worst_case_sockets().map(|sockets| {
        let most = sockets + operators + OWN_DESCRIPTORS;
        format!("at most {most}: {sockets} clients, {operators} operators, {OWN_DESCRIPTORS} others")
    });
    vec![
        format!("limits: {}", limits.join(" ")),
        format!(
            "worst-case memory with these limits: {}, without the kernel's buffers",
            memory.unwrap_or_else(without_bound)
        ),
        format!("file descriptors: {}", descriptors.unwrap_or_else(without_bound)),
    ]
}
