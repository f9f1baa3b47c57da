//! A finished flow as logs tell it, and the two events that it is to the analyser.

use std::net::IpAddr;

use crate::analyser::event::{Both, Carrier, End, FlowKey, Habit, Reach, Standing, Target, Tongue};
use crate::analyser::{Event, Keys, Moment};

/// One finished flow, or one window of a long one. Readers fill one record again and again; its texts keep their room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowRecord {
    /// When it began.
    pub began: Moment,
    /// How long it took, in microseconds.
    pub lasted_us: u64,
    /// Whose it is: a device's name or address. At most [`FlowRecord::NAME_MAX`] bytes.
    pub device: String,
    /// What it reached: an address, a host or a service's name. At most [`FlowRecord::NAME_MAX`] bytes.
    pub target: String,
    /// The port; 0 when the target is a service by name.
    pub port: u16,
    /// What carried it.
    pub carrier: Carrier,
    /// What it spoke, as the log says.
    pub tongue: Tongue,
    /// What policy said; unknown for logs of others.
    pub standing: Standing,
    /// Bytes each way, without headers.
    pub bytes: Both<u64>,
    /// Packets or chunks each way.
    pub chunks: Both<u32>,
    /// How it ended.
    pub end: End,
    /// How its caller looked.
    pub habit: Habit,
}

impl FlowRecord {
    /// The longest name of a device or target that a reader may give.
    pub const NAME_MAX: usize = 255;

    /// When it ended.
    pub fn ended(&self) -> Moment {
        self.began.plus(self.lasted_us)
    }

    /// The events it is, both at its end: that is when a log tells of it. `number` is no other living flow's.
    pub fn events(&self, keys: &Keys, number: u64) -> [Event; 2] {
        let (t, flow) = (self.ended(), FlowKey(number));
        let target = Target {
            service: keys.service(&self.target, self.port, self.carrier),
            host: keys.host(&self.target),
            port: self.port,
            carrier: self.carrier,
            declared: self.tongue,
            standing: self.standing,
            reach: reach(&self.target),
        };
        let device = keys.device(&self.device);
        [
            Event::Open { t, began: self.began, flow, device, target, habit: self.habit },
            Event::Close { t, flow, end: self.end, bytes: self.bytes, chunks: self.chunks },
        ]
    }
}

/// Where an address is; a name is taken to be near.
pub fn reach(target: &str) -> Reach {
    match target.parse::<IpAddr>().map(|a| a.to_canonical()) {
        Ok(IpAddr::V4(a)) if a.is_multicast() || a.is_broadcast() => Reach::Many,
        Ok(IpAddr::V4(a)) if a.is_private() || a.is_loopback() || a.is_link_local() || a.is_unspecified() => {
            Reach::Near
        }
        Ok(IpAddr::V6(a)) if a.is_multicast() => Reach::Many,
        Ok(IpAddr::V6(a))
            if a.is_loopback() || a.is_unspecified() || a.is_unique_local() || a.is_unicast_link_local() =>
        {
            Reach::Near
        }
        Ok(_) => Reach::Far,
        Err(_) => Reach::Near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_near_far_or_many() {
        for (target, expected) in [
            ("10.0.0.1", Reach::Near),
            ("192.168.4.4", Reach::Near),
            ("127.0.0.1", Reach::Near),
            ("169.254.1.1", Reach::Near),
            ("::ffff:10.0.0.1", Reach::Near),
            ("fd00::1", Reach::Near),
            ("fe80::1", Reach::Near),
            ("8.8.8.8", Reach::Far),
            ("2001:db8::1", Reach::Far),
            ("239.255.255.250", Reach::Many),
            ("255.255.255.255", Reach::Many),
            ("ff02::fb", Reach::Many),
            ("billing", Reach::Near),
        ] {
            assert_eq!(reach(target), expected, "{target}");
        }
    }

    #[test]
    fn a_record_is_heard_when_it_ends_and_tells_when_it_began() {
        let record = FlowRecord {
            began: Moment(5),
            lasted_us: 10,
            device: "a".into(),
            target: "b".into(),
            port: 80,
            bytes: [1, 2],
            end: End::Reset,
            ..FlowRecord::default()
        };
        let [open, close] = record.events(&Keys::new([0, 0]), 7);
        assert_eq!((open.at(), close.at()), (Moment(15), Moment(15)));
        assert_eq!((open.flow(), close.flow()), (Some(FlowKey(7)), Some(FlowKey(7))));
        assert!(matches!(open, Event::Open { began: Moment(5), .. }));
        assert!(matches!(close, Event::Close { end: End::Reset, bytes: [1, 2], .. }));
    }
}
