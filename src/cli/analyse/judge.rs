//! The analyser as the judge of plays.

use super::simulate::suite::Judge;
use crate::analyser::{Engine, Event, Moment, Prior, Rule, Settings, Verdict};

/// Makes engines that enforce from a moment on, with some rules switched off.
pub(super) fn caller(without: &[Rule], prior: Option<Prior>) -> impl Fn(Moment) -> Box<dyn Judge> + Sync {
    let without = without.to_vec();
    move |learn_until| {
        Box::new(Engine::new(Settings {
            learn_until: Some(learn_until),
            without: without.clone(),
            prior: prior.clone(),
            ..Settings::default()
        }))
    }
}

impl Judge for Engine {
    fn hear(&mut self, event: &Event) -> Verdict {
        self.on(event)
    }
}
