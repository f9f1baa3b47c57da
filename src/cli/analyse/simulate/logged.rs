//! A play as a log would tell it: each flow once, when it is over.

use std::collections::HashMap;

use super::stage::Act;
use crate::analyser::Event;
use crate::analyser::event::FlowKey;

/// Keeps openings back until their endings.
#[derive(Default)]
pub struct Logged {
    open: HashMap<FlowKey, Act>,
}

impl Logged {
    /// What a log tells at this act: time, or the opening and the end of a flow, in this order.
    pub fn take(&mut self, act: Act) -> impl Iterator<Item = Act> + use<> {
        let mut told = [None, None];
        match act.event {
            Event::Open { flow, .. } => {
                self.open.insert(flow, act);
            }
            Event::Close { t, flow, .. } => {
                let opened = self.open.remove(&flow).map(|mut opened| {
                    if let Event::Open { t: heard, .. } = &mut opened.event {
                        *heard = t;
                    }
                    opened
                });
                told = [opened, Some(act)];
            }
            Event::Tick { .. } => told = [None, Some(act)],
            Event::Chunk { .. } | Event::Message { .. } => {}
        }
        told.into_iter().flatten()
    }
}
