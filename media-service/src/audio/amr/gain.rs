//! How loud a frame of AMR at 12.2 kbit/s is, from the gains in it: the energy of what excites its filter, without the
//! filter, which is what a decoder would take most of its time for.
//!
//! Each of the four quarters of a frame has two gains: of the pitch, which is what is kept of the excitation one period
//! before, and of the code, which is what is added. Of the latter it is told by how much it differs from what the last
//! four lead to expect. Sources: 3GPP TS 26.090, and for the places of the bits TS 26.101, annex B.

/// Where in a frame the bits of the pitch's gain stand, of the first quarter, the highest first; those of the others
/// stand next to each.
const PITCH_BITS: [usize; 4] = [47, 51, 55, 88];
/// The like of the code's gain.
const CODE_BITS: [usize; 5] = [59, 63, 67, 92, 104];

/// The gains of the pitch, in percent.
const PITCH: [u8; 16] = [0, 20, 40, 50, 60, 70, 75, 80, 85, 90, 95, 100, 105, 110, 115, 120];
/// By how much the gain of the code differs from what is expected, in tenths of a decibel.
const CODE: [i16; 32] = [
    -222, -199, -177, -154, -138, -126, -114, -101, -89, -77, -65, -53, -41, -29, -16, -4, 8, 20, 32, 44, 56, 69, 81,
    93, 105, 117, 129, 141, 157, 180, 203, 226,
];
/// How much of each of the last four differences is expected again, the latest first.
const AGAIN: [f32; 4] = [0.68, 0.58, 0.34, 0.19];
/// In decibels, of the code's energy.
const MEAN: f32 = 36.0;
/// In decibels: the difference before the first frame.
const SILENT: f32 = -14.0;
/// The energy of the loudest sound that samples of 16 bits have.
const MOST: f32 = 32_768.0 * 32_768.0;

/// What the next frame builds upon.
pub(super) struct Gains {
    /// The latest first.
    differences: [f32; 4],
    energy: f32,
}

impl Gains {
    pub(super) fn new() -> Gains {
        Gains { differences: [SILENT; 4], energy: 0.0 }
    }

    /// The mean amplitude of a frame, or none if it is too short for one.
    pub(super) fn loudness(&mut self, speech: &[u8]) -> Option<u32> {
        let mut sum = 0.0;
        for quarter in 0..4 {
            let pitch = PITCH.get(number(speech, &PITCH_BITS, quarter)?)?;
            let code = CODE.get(number(speech, &CODE_BITS, quarter)?)?;
            sum += self.energy_with(f32::from(*pitch) / 100.0, f32::from(*code) / 10.0);
        }
        Some((sum / 4.0).sqrt() as u32)
    }

    fn energy_with(&mut self, pitch: f32, difference: f32) -> f32 {
        let expected: f32 = AGAIN.iter().zip(self.differences).map(|(again, past)| again * past).sum();
        let [latest, second, third, _] = self.differences;
        self.differences = [difference, latest, second, third];
        let added = 10_f32.powf((MEAN + expected + difference) / 10.0);
        // Bounded, as what is played is; also where a hostile pitch would have it grow without end.
        self.energy = (pitch * pitch * self.energy + added).min(MOST);
        self.energy
    }
}

/// The number that these bits are, of this quarter.
fn number(speech: &[u8], bits: &[usize], quarter: usize) -> Option<usize> {
    bits.iter().try_fold(0, |number, bit| {
        let bit = bit + quarter;
        let byte = speech.get(bit / 8)?;
        Some(number << 1 | usize::from(byte >> (7 - bit % 8) & 1))
    })
}

/// Sets the gain of the code in every quarter, and of the pitch to 0; for speech that is made up.
#[cfg(test)]
pub(in crate::audio) fn set(speech: &mut [u8], code: u8) {
    let pitch = PITCH_BITS.iter().map(|bit| (*bit, 0));
    let code = (0..5).rev().zip(CODE_BITS).map(|(shift, bit)| (bit, code >> shift & 1));
    for (bit, value) in pitch.chain(code).flat_map(|(bit, value)| (bit..bit + 4).map(move |bit| (bit, value))) {
        if let Some(byte) = speech.get_mut(bit / 8) {
            let shift = 7 - bit % 8;
            *byte = *byte & !(1 << shift) | value << shift;
        }
    }
}
