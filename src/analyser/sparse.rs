//! How arrays are kept of which most places are empty: as pairs of place and value, in order.
//!
//! What is read back has the array's own size, whatever the bytes say.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// Writes the places that are not empty.
pub fn serialize<T, S, const N: usize>(places: &[T; N], to: S) -> Result<S::Ok, S::Error>
where
    T: Default + PartialEq + Serialize,
    S: Serializer,
{
    write(places, to)
}

/// Reads the places that are not empty.
pub fn deserialize<'de, T, D, const N: usize>(from: D) -> Result<[T; N], D::Error>
where
    T: Copy + Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let mut places = [T::default(); N];
    read(&mut places, from)?;
    Ok(places)
}

/// Arrays of arrays.
pub mod grid {
    use super::{Deserialize, Deserializer, Serialize, Serializer, read, write};

    /// Writes the places that are not empty.
    pub fn serialize<T, S, const M: usize, const N: usize>(
        rows: &[[T; M]; N],
        to: S,
    ) -> Result<S::Ok, S::Error>
    where
        T: Default + PartialEq + Serialize,
        S: Serializer,
    {
        write(rows.as_flattened(), to)
    }

    /// Reads the places that are not empty.
    pub fn deserialize<'de, T, D, const M: usize, const N: usize>(from: D) -> Result<[[T; M]; N], D::Error>
    where
        T: Copy + Default + Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let mut rows = [[T::default(); M]; N];
        read(rows.as_flattened_mut(), from)?;
        Ok(rows)
    }
}

/// Arrays of arrays in a box.
pub mod boxed {
    use super::{Deserialize, Deserializer, grid};

    pub use super::grid::serialize;

    /// Reads the places that are not empty.
    pub fn deserialize<'de, T, D, const M: usize, const N: usize>(
        from: D,
    ) -> Result<Box<[[T; M]; N]>, D::Error>
    where
        T: Copy + Default + Deserialize<'de>,
        D: Deserializer<'de>,
    {
        grid::deserialize(from).map(Box::new)
    }
}

fn write<T, S>(places: &[T], to: S) -> Result<S::Ok, S::Error>
where
    T: Default + PartialEq + Serialize,
    S: Serializer,
{
    let empty = T::default();
    let full = places.iter().filter(|place| **place != empty).count();
    let mut pairs = to.serialize_seq(Some(full))?;
    // As many places as 16 bits can name: all arrays here are far smaller.
    for (at, place) in (0..=u16::MAX).zip(places).filter(|(_, place)| **place != empty) {
        pairs.serialize_element(&(at, place))?;
    }
    pairs.end()
}

fn read<'de, T, D>(places: &mut [T], from: D) -> Result<(), D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(Pairs(places, PhantomData))
}

/// Fills an array with pairs.
struct Pairs<'a, 'de, T>(&'a mut [T], PhantomData<&'de ()>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<'_, 'de, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pairs of place and value, in order, of {} places", self.0.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let mut next = 0;
        while let Some((at, value)) = pairs.next_element::<(u16, T)>()? {
            let at = usize::from(at);
            match self.0.get_mut(at) {
                Some(place) if at >= next => *place = value,
                _ => return Err(A::Error::custom("a place out of order or beyond the end")),
            }
            next = at + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, PartialEq, serde::Deserialize, serde::Serialize)]
    struct Row(#[serde(with = "crate::analyser::sparse")] [u16; 40]);

    #[derive(Debug, PartialEq, serde::Deserialize, serde::Serialize)]
    struct Grid(#[serde(with = "crate::analyser::sparse::grid")] [[u16; 40]; 3]);

    fn read(pairs: &[(u16, u16)]) -> Option<Row> {
        postcard::from_bytes(&postcard::to_allocvec(pairs).unwrap()).ok()
    }

    #[test]
    fn what_is_written_is_read_and_empty_places_cost_nothing() {
        let mut row = Row([0; 40]);
        (row.0[0], row.0[39]) = (7, 9);
        let bytes = postcard::to_allocvec(&row).unwrap();
        assert_eq!(bytes, [2, 0, 7, 39, 9]);
        assert_eq!(postcard::from_bytes::<Row>(&bytes).unwrap(), row);
        let mut grid = Grid([[0; 40]; 3]);
        (grid.0[1][2], grid.0[2][39]) = (7, 9);
        let bytes = postcard::to_allocvec(&grid).unwrap();
        assert_eq!(bytes, [2, 42, 7, 119, 9]);
        assert_eq!(postcard::from_bytes::<Grid>(&bytes).unwrap(), grid);
    }

    #[test]
    fn places_out_of_order_twice_or_beyond_the_end_are_refused() {
        assert!(read(&[(0, 1), (39, 1)]).is_some());
        assert_eq!(read(&[(39, 1), (0, 1)]), None);
        assert_eq!(read(&[(3, 1), (3, 2)]), None);
        assert_eq!(read(&[(40, 1)]), None);
    }
}
