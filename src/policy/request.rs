//! Facts in Cedar's words: who asks, for what, in which context.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};

use super::schema::{self, DEVICE, GROUP, SERVICE};
use crate::model::{Facts, Transport};

/// Rules see the lease's age rounded up to this many seconds, so that equal questions stay equal for a while. Up,
/// because an age that is too high refuses rather than allows.
pub const AGE_STEP_S: u32 = 60;

/// The words every request is made of.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(crate) schema: Schema,
    action: EntityUid,
    device: EntityTypeName,
    group: EntityTypeName,
    service: EntityTypeName,
}

impl Vocabulary {
    /// # Errors
    /// The text of Cedar's error; a test shows there is none.
    pub(crate) fn new() -> Result<Self, String> {
        let kind = |name| EntityTypeName::from_str(name).map_err(|e| e.to_string());
        Ok(Self {
            schema: schema::read()?,
            action: EntityUid::from_type_name_and_id(kind("Action")?, EntityId::new("connect")),
            device: kind(DEVICE)?,
            group: kind(GROUP)?,
            service: kind(SERVICE)?,
        })
    }

    /// Asks about `facts`, checked against the schema.
    ///
    /// # Errors
    /// The text of Cedar's error.
    pub(crate) fn request(&self, facts: &Facts) -> Result<Request, String> {
        let session = &facts.session;
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let long = |value: u32| RestrictedExpression::new_long(i64::from(value));
        let uid = session.uid.map(|uid| ("uid", long(uid)));
        let pairs = [
            ("direction", text(session.direction.name())),
            ("hour", long(session.hour.into())),
            ("lease_age", long(session.lease_age_s)),
            ("local", RestrictedExpression::new_bool(session.transport == Transport::Local)),
            ("pq", RestrictedExpression::new_bool(session.pq)),
            ("risk", long(session.risk.level().into())),
            ("transport", text(session.transport.name())),
        ];
        let pairs = pairs.into_iter().chain(uid).map(|(key, value)| (key.to_owned(), value));
        let context = Context::from_pairs(pairs).map_err(|e| e.to_string())?;
        let (principal, resource) = (self.device(facts), self.service(facts));
        let schema = Some(&self.schema);
        Request::new(principal, self.action.clone(), resource, context, schema).map_err(|e| e.to_string())
    }

    /// The device with its groups and attributes, and the service.
    ///
    /// # Errors
    /// The text of Cedar's error.
    pub(crate) fn entities(&self, facts: &Facts, groups: &[Box<str>]) -> Result<Entities, String> {
        let device = &facts.device;
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let long = |value: u8| RestrictedExpression::new_long(i64::from(value));
        let attributes = HashMap::from([
            ("name".to_owned(), text(device.id.device_name().unwrap_or_default())),
            ("score".to_owned(), long(device.score.percent())),
            ("tier".to_owned(), long(device.tier.level())),
            ("trust_domain".to_owned(), text(device.id.trust_domain().as_str())),
        ]);
        let group = |name: &str| EntityUid::from_type_name_and_id(self.group.clone(), EntityId::new(name));
        let parents: HashSet<_> = groups.iter().map(|name| group(name)).collect();
        let device = Entity::new(self.device(facts), attributes, parents).map_err(|e| e.to_string())?;
        let service = Entity::new_no_attrs(self.service(facts), HashSet::new());
        Entities::from_entities([device, service], Some(&self.schema)).map_err(|e| e.to_string())
    }

    fn device(&self, facts: &Facts) -> EntityUid {
        EntityUid::from_type_name_and_id(self.device.clone(), EntityId::new(facts.device.id.as_str()))
    }

    fn service(&self, facts: &Facts) -> EntityUid {
        EntityUid::from_type_name_and_id(self.service.clone(), EntityId::new(facts.service.as_str()))
    }
}

/// The facts as rules see them: the lease's age rounded up to [`AGE_STEP_S`].
pub(crate) fn seen(facts: &Facts) -> Facts {
    let mut seen = facts.clone();
    let steps = seen.session.lease_age_s.div_ceil(AGE_STEP_S);
    seen.session.lease_age_s = steps.saturating_mul(AGE_STEP_S);
    seen
}
