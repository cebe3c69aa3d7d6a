//! What a configuration needs, in a few lines for the log and for `lobbyd check`.

use lobbyd::Config;
use lobbyd::net::worst_case_descriptors;

/// Returns the limits in force, and the memory and the file descriptors that they allow.
pub(crate) fn summary(config: &Config) -> Vec<String> {
    let limits = Config::FIELDS.iter().filter(|field| field.name.starts_with("max_"));
    let limits: Vec<String> = limits.map(|field| format!("{}={}", field.name, (field.show)(config))).collect();
    let without_bound = || "without a bound, since a limit is unlimited".to_owned();
    let memory = config.worst_case_memory().map(|bytes| format!("{} MiB", bytes.div_ceil(1 << 20)));
    let descriptors = worst_case_descriptors(config).map(|most| format!("at most {most}"));
    vec![
        format!("limits: {}", limits.join(" ")),
        format!(
            "worst-case memory with these limits: {}, without the kernel's buffers",
            memory.unwrap_or_else(without_bound)
        ),
        format!("file descriptors: {}", descriptors.unwrap_or_else(without_bound)),
    ]
}
