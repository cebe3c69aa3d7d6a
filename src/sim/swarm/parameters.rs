//! The parameters of a run: the frequency of each behaviour, and the numbers and sizes of what takes part.
//!
//! Each run leaves some behaviours out. Knows neither the engine nor its configuration.

use super::behaviour::{Behaviour, Behaviours};
use super::pick::pick;
use crate::base::random::Random;

/// The drawn parameters of one run.
#[derive(Debug)]
pub(crate) struct Swarm {
    weights: [u32; Behaviour::ALL.len()],
    pub(crate) clients: usize,
    pub(crate) users: usize,
    pub(crate) lobbies: usize,
    /// Percentage of steps after which the driver ends its turn.
    pub(crate) turns: u64,
    /// Largest number of bytes that arrive at once, under [`Behaviour::Chunk`].
    pub(crate) chunk: usize,
    /// Capacity in bytes of the path to a slow or stalled client.
    pub(crate) narrow: usize,
    /// Weight of the action in which a client sends a broadcast.
    pub(crate) sends: u32,
    /// Weight of the action in which a client connects.
    pub(crate) arrivals: u32,
    /// Weight of the action in which time passes.
    pub(crate) clock: u32,
    /// Largest padding of a message, in bytes.
    pub(crate) padding: usize,
}

impl Swarm {
    /// Draws the parameters of a run with at most `clients` clients and without the behaviours `without`.
    pub(crate) fn draw(random: &mut Random, clients: usize, without: Behaviours) -> Swarm {
        let mut weights = [0; Behaviour::ALL.len()];
        // The percentage of behaviours left out varies: some runs have most of them, some only a few.
        let absent = 20 + 20 * random.below(4);
        // Weights are also drawn for excluded behaviours, so that excluding one does not change the others.
        let mut weigh = |behaviour: Behaviour, random: &mut Random| {
            let (off, drawn) = (random.percent(absent), 1 << random.below(7));
            weights[behaviour as usize] = if off || without.contains(behaviour) { 0 } else { drawn };
        };
        let (first, later) = Behaviour::ALL.split_at(Behaviour::Ticks as usize);
        first.iter().for_each(|&behaviour| weigh(behaviour, random));
        // Mostly many clients, sometimes a few.
        let drawn = pick(random, &[2, 4, 8, 12, 12, 12]);
        let users = pick(random, &[1, 3, 8, 12, 12, 16]);
        let mut swarm = Swarm {
            weights: [0; Behaviour::ALL.len()],
            clients: drawn.min(clients),
            users,
            lobbies: pick(random, &[1, 1, 2, 3]),
            turns: pick(random, &[100, 100, 60, 30, 10]) as u64,
            chunk: pick(random, &[1, 3, 20, 200, 2000]),
            narrow: pick(random, &[1, 10, 200, 1000]),
            sends: pick(random, &[10, 60, 200]) as u32,
            arrivals: pick(random, &[20, 60, 150]) as u32,
            clock: pick(random, &[5, 20, 60]) as u32,
            padding: pick(random, &[0, 0, 60, 1000, 20_000]),
        };
        // Behaviours that were added later are drawn last, so that older seeds still give the same runs.
        later.iter().for_each(|&behaviour| weigh(behaviour, random));
        swarm.weights = weights;
        swarm
    }

    /// Returns the relative frequency of `behaviour`; 0 if the run leaves it out.
    pub(crate) fn weight(&self, behaviour: Behaviour) -> u32 {
        self.weights[behaviour as usize]
    }

    /// Draws whether `behaviour`, which modifies another action, occurs now: with a probability of at most one half.
    pub(crate) fn occurs(&self, behaviour: Behaviour, random: &mut Random) -> bool {
        let weight = self.weight(behaviour);
        weight > 0 && random.below(128) < u64::from(weight)
    }

    /// Sets all weights to 0, so that no more faults occur.
    pub(crate) fn stop_faults(&mut self) {
        self.weights = [0; Behaviour::ALL.len()];
    }
}
