//! Model of the idempotency keys: a repeated publish sends nothing and gets the first answer, as long as its lobby exists and
//! keeps the key.

use crate::config::Config;
use crate::engine::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal};

/// A publish under a key.
#[derive(Debug)]
struct Kept {
    /// Epoch of its lobby.
    epoch: u64,
    command: OperatorCommand,
    answer: OperatorAnswer,
}

/// What was published under keys, oldest first.
#[derive(Debug)]
pub(crate) struct PublishedModel {
    max_keys: usize,
    kept: Vec<Kept>,
}

impl PublishedModel {
    pub(crate) fn new(config: &Config) -> PublishedModel {
        PublishedModel { max_keys: config.max_idempotency_keys as usize, kept: Vec::new() }
    }

    /// Returns a publish to the lobby of this epoch whose key is kept. `which` selects one.
    pub(crate) fn any_kept(&self, epoch: u64, which: u64) -> Option<&OperatorCommand> {
        let kept: Vec<&Kept> = self.kept.iter().filter(|kept| kept.epoch == epoch).collect();
        let index = (which % kept.len().max(1) as u64) as usize;
        kept.get(index).map(|kept| &kept.command)
    }

    /// Returns whether the answer to a publish fits the earlier ones with the same key. `epoch` is that of its lobby before it,
    /// if there was one.
    pub(crate) fn answered(
        &mut self,
        epoch: Option<u64>,
        command: &OperatorCommand,
        answer: &Result<OperatorAnswer, OperatorRefusal>,
    ) -> bool {
        let OperatorCommand::Publish { idempotency_key, .. } = command else { return true };
        let of_key = |kept: &&Kept| {
            let OperatorCommand::Publish { idempotency_key: known, .. } = &kept.command else { return false };
            Some(kept.epoch) == epoch && known == idempotency_key
        };
        let earlier = self.kept.iter().find(of_key).filter(|_| idempotency_key.is_some());
        match (earlier, answer) {
            (Some(kept), Err(refusal)) => *refusal == OperatorRefusal::KeyReused && kept.command != *command,
            (Some(kept), Ok(answer)) => {
                let OperatorAnswer::Sent { seq, sent, .. } = kept.answer else { return false };
                kept.command == *command && *answer == OperatorAnswer::Sent { seq, sent, repeated: true }
            }
            (None, Err(refusal)) => *refusal != OperatorRefusal::KeyReused,
            (None, Ok(answer)) => {
                if let Some(epoch) = epoch.filter(|_| idempotency_key.is_some()) {
                    self.kept.push(Kept { epoch, command: command.clone(), answer: answer.clone() });
                    let of_lobby = self.kept.iter().filter(|kept| kept.epoch == epoch).count();
                    let oldest = self.kept.iter().position(|kept| kept.epoch == epoch).expect("it was just added");
                    if of_lobby > self.max_keys {
                        self.kept.remove(oldest);
                    }
                }
                matches!(answer, OperatorAnswer::Sent { repeated: false, .. })
            }
        }
    }
}
