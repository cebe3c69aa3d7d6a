//! The rules of the fields of events and of the hook.

use std::time::Duration;

use super::check::Rules;

impl Rules<'_> {
    pub(super) fn check_hook(&mut self) {
        let config = self.config;
        let rule = "must be set with hook: it signs what the backend is sent, so that nobody else can speak to it";
        self.require(config.hook.is_none() || config.hook_secret_file.is_some(), "hook_secret_file", rule);
        for (field, count, most) in [
            ("max_kept_events", config.max_kept_events, 1 << 20),
            ("max_event_readers", config.max_event_readers, 1 << 10),
            ("max_hook_questions", config.max_hook_questions, 1 << 20),
            ("max_hook_calls", config.max_hook_calls, 256),
            ("hook_batch_events", config.hook_batch_events, 10_000),
        ] {
            self.require((1..=most).contains(&count), field, format!("must be from 1 to {most}"));
        }
        let is_used = config.hook.is_some() || config.jwt_jwks_url.is_some();
        let most = u64::from(config.max_hook_questions) + u64::from(config.max_hook_calls);
        let rule = format!(
            "must with max_hook_calls ({}) be less than max_pending ({}): each question is a pending connection, and when so many \
             wait, one of them gives way to that of another address",
            config.max_hook_calls, config.max_pending
        );
        self.require(!is_used || most < u64::from(config.max_pending), "max_hook_questions", rule);
        let minute = Duration::from_secs(60);
        let is_possible = (Duration::from_millis(10)..=minute).contains(&config.hook_timeout);
        self.require(is_possible, "hook_timeout", "must be from 10ms to 60s");
        self.require(config.hook_batch_wait <= minute, "hook_batch_wait", "must be at most 60s");
        // A question waits as long for a free call, and then for its answer.
        let rule = "must be shorter than half of auth_timeout, or clients are closed before the hook can answer";
        let is_in_time = config.hook.is_none() || config.hook_timeout < config.auth_timeout / 2;
        self.require(is_in_time, "hook_timeout", rule);
        let day = Duration::from_secs(24 * 3600);
        let is_possible = (minute..=day).contains(&config.jwt_jwks_refresh);
        self.require(is_possible, "jwt_jwks_refresh", "must be from 60s to 24h");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_queue_of_questions_is_full_before_max_pending_is_reached() {
        let problems = |max_hook_questions, max_hook_calls, is_used: bool| {
            let hook = is_used.then(|| "http://127.0.0.1:8080/".parse().expect("a URL"));
            let hook_secret_file = hook.as_ref().map(|_| "secret".into());
            let config = Config { hook, hook_secret_file, max_hook_questions, max_hook_calls, ..Config::default() };
            let problems = config.check().err();
            problems.iter().flat_map(|problems| problems.iter()).map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(Config::default().max_pending, 256);
        assert_eq!(problems(247, 8, true), [""; 0]);
        assert_eq!(problems(248, 8, true), ["max_hook_questions"]);
        assert_eq!(problems(240, 16, true), ["max_hook_questions"]);
        assert_eq!(problems(1 << 20, 8, false), [""; 0], "nobody is asked");
    }

    #[test]
    fn a_question_can_wait_and_be_asked_before_auth_timeout() {
        let problems = |hook_timeout| {
            let hook = Some("http://127.0.0.1:8080/".parse().expect("a URL"));
            let config = Config { hook, hook_secret_file: Some("secret".into()), hook_timeout, ..Config::default() };
            let problems = config.check().err();
            problems.iter().flat_map(|problems| problems.iter()).map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(Config::default().auth_timeout, Duration::from_secs(10));
        assert_eq!(problems(Duration::from_millis(4999)), [""; 0]);
        assert_eq!(problems(Duration::from_secs(5)), ["hook_timeout"]);
    }
}
