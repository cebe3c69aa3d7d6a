//! The metrics of the hook, and the guide that lists them.

use super::*;

#[test]
fn the_guide_lists_the_metrics_of_the_hook() {
    let secret = File::new("hook-secret-metrics", SECRET);
    let backend = Backend::new(|_| Reply::Answer(200, "{}".into()));
    let jwt_jwks_url = Some(backend.url().parse().expect("a URL"));
    let (mut server, _) = bind(Config { jwt_jwks_url, ..config(&backend, &secret) });
    let is_of_hook = |name: &str| name.starts_with("lobbyd_hook_") || name.starts_with("lobbyd_jwks_");
    let text = metrics(&mut server);
    let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut shown: Vec<(&str, &str)> = shown.filter(|(name, _)| is_of_hook(name)).collect();
    let rows = include_str!("../../../../src/guide/metrics.md").lines().filter_map(|line| {
        let (name, rest) = line.trim().strip_prefix("| `")?.split_once('`')?;
        let kind = rest.strip_prefix(" | ")?.split(' ').next()?;
        Some((name.split('{').next()?, kind))
    });
    let mut listed: Vec<(&str, &str)> = rows.filter(|(name, _)| is_of_hook(name)).collect();
    shown.sort_unstable();
    listed.sort_unstable();
    assert_eq!(shown, listed);
    assert_eq!(shown.len(), 11);
}
