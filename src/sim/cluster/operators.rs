//! Operators, who give commands to any node and wait for the answers.

use std::time::Duration;

use super::node::Node;
use super::world::World;
use crate::engine::operator::{
    KickTarget, LobbyChange, OperatorAnswer, OperatorCommand, OperatorRefusal, OperatorReport, Payload,
};

/// For how long a command may end sessions after it was given: until the log has it, in microseconds.
const EFFECT: u64 = 30_000_000;
/// `timeout` of a ping.
const PING: Duration = Duration::from_millis(1500);

impl World {
    /// Gives a command to a node.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        if !self.nodes[at].is_running(self.now) {
            return Ok(());
        }
        let (command, name) = self.draw_command();
        self.trace.note(self.now, || format!("an operator asks node{at}: {command:?}"));
        let time = self.nodes[at].time(self.now);
        let node = &mut self.nodes[at];
        match node.engine.as_mut().expect("it runs").handle_operator(time, command) {
            Ok(OperatorAnswer::Submitted(ticket) | OperatorAnswer::Pinged(ticket)) => {
                node.asked.begin(ticket, name);
                self.books.count("commands of operators");
            }
            Ok(OperatorAnswer::Sent { seq: Some(seq), .. }) => {
                self.books.count("published");
                name.map_or(Ok(()), |data| self.books.published(&data, seq))?;
            }
            Ok(_) => {}
            Err(_) => self.books.count("commands refused at once"),
        }
        Ok(())
    }

    fn draw_command(&mut self) -> (OperatorCommand, Option<String>) {
        let user = self.random.below(self.users.len() as u64) as usize;
        let name = self.users[user].clone();
        let lobby = self.draw_lobby();
        let number = self.next_message();
        let is_of = |page: &super::page::Page| page.lobby() == Some(&*lobby);
        match self.random.below(20) {
            0..7 => {
                let data = format!(r#""published {number}""#);
                return (OperatorCommand::publish(&*lobby, Payload::Json(data.clone())), Some(data));
            }
            7..9 => {
                let payload = Payload::Json(format!(r#""sent {number}""#));
                return (OperatorCommand::Send { user: name, payload }, None);
            }
            9..13 => return (OperatorCommand::Ping { user: name, timeout: PING }, None),
            13 | 14 => {
                let locked = self.random.percent(40);
                return (OperatorCommand::Lock { lobby, locked }, None);
            }
            15 => {
                let data = format!(r#"{{"o":{number}}}"#);
                let change = LobbyChange::Data { of: None, if_seq: None, data };
                return (OperatorCommand::Change { lobby, change }, None);
            }
            16 | 17 => {
                let is_user = self.random.percent(70);
                let reconnect = self.random.percent(50);
                let target = if is_user { KickTarget::User(name) } else { KickTarget::Lobby(lobby.clone()) };
                let until = self.now + EFFECT;
                let pages = self.pages.iter_mut();
                let concerned = pages.filter(|page| if is_user { page.user == user } else { is_of(page) });
                concerned.for_each(|page| page.disturbed_until = until);
                return (OperatorCommand::Kick { target, reconnect }, None);
            }
            18 => {
                let until = self.now + EFFECT;
                self.pages.iter_mut().filter(|page| is_of(page)).for_each(|page| page.disturbed_until = until);
                return (OperatorCommand::Close { lobby }, None);
            }
            _ => {}
        }
        let until = self.now + EFFECT;
        self.pages.iter_mut().filter(|page| page.user == user).for_each(|page| page.disturbed_until = until);
        let change = if self.random.percent(50) { LobbyChange::Ban(name) } else { LobbyChange::Unban(name) };
        (OperatorCommand::Change { lobby, change }, None)
    }

    /// A lobby in which a page is, if there is any.
    fn draw_lobby(&mut self) -> String {
        let known: Vec<String> = self.pages.iter().filter_map(|page| page.lobby().map(str::to_owned)).collect();
        let at = self.random.below(known.len().max(1) as u64) as usize;
        known.get(at).cloned().unwrap_or_else(|| "lobby0".to_owned())
    }

    /// Takes the answers that a node has.
    pub(super) fn read_reports(&mut self, at: usize) -> Result<(), String> {
        let Node { engine, asked, .. } = &mut self.nodes[at];
        let Some(engine) = engine else { return Ok(()) };
        while engine.has_operator_reports()
            && let Some(report) = engine.poll_operator()
        {
            let (ticket, answer) = match report {
                OperatorReport::Pinged(report) => {
                    let is_healthy = report.answers.iter().any(|(_, latency)| latency.is_some());
                    self.books.count(if is_healthy { "pings answered" } else { "pings without an answer" });
                    (report.ticket, None)
                }
                OperatorReport::Answered { ticket, answer } => (ticket, Some(answer)),
            };
            let name = asked.end(ticket).ok_or(format!("node{at} answers the command {ticket} twice"))?;
            match (answer, name) {
                (Some(Ok(OperatorAnswer::Sent { seq: Some(seq), .. })), Some(name)) => {
                    self.books.count("published");
                    self.books.published(&name, seq)?;
                }
                (Some(Err(OperatorRefusal::OutcomeUnknown)), _) => self.books.count("outcomes unknown"),
                (Some(Err(_)), Some(name)) => self.books.not_published(&name)?,
                _ => {}
            }
        }
        Ok(())
    }
}
