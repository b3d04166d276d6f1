//! Time that runs faster or slower for a while (Le Guennec et al. 2016, window warping).

use super::prepare::between;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A signal `[length, channels]` in which a window of `share` of the length, at a random place, takes half to twice
/// its time; the whole is then brought back to its length, in lines from value to value. All channels keep step.
pub(crate) fn warp(signal: &[f32], channels: usize, share: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let n = signal.len() / channels;
    let window = f64::from(share.clamp(0.0, 1.0)) * n as f64;
    let start = rng.random::<f64>() * (n as f64 - window);
    let factor = rng.random_range(-1.0..=1.0f64).exp2();
    let speed = (n as f64 + window * (factor - 1.0)) / n as f64;
    let mut out = Vec::with_capacity(signal.len());
    for t in 0..n {
        let time = t as f64 * speed;
        let place = match time - start {
            before if before < 0.0 => time,
            within if within < window * factor => start + within / factor,
            behind => start + window + (behind - window * factor),
        };
        out.extend((0..channels).map(|c| between(signal, channels, c, place)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn time_runs_on_at_three_speeds_and_channels_keep_step() {
        let n = 200;
        let signal: Vec<f32> = (0..n).flat_map(|t| [t as f32, -(t as f32)]).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut changed = 0;
        for _ in 0..50 {
            let out = warp(&signal, 2, 0.1, &mut rng);
            assert_eq!(out.len(), signal.len());
            assert!(out.chunks_exact(2).all(|v| v[0] == -v[1]));
            let times: Vec<f32> = out.chunks_exact(2).map(|v| v[0]).collect();
            assert_eq!(times[0], 0.0);
            let steps: Vec<f32> = times.windows(2).map(|t| t[1] - t[0]).collect();
            // A tenth of the time at half to twice the speed, brought back to the whole.
            assert!(steps.iter().all(|s| (0.44..2.2).contains(s)), "{steps:?}");
            assert!((times[n - 1] - (n - 1) as f32).abs() < 2.3, "{}", times[n - 1]);
            changed += usize::from(steps.iter().any(|s| (s - 1.0).abs() > 0.1));
        }
        assert!(changed > 30, "{changed}");
    }

    #[test]
    fn any_length_and_share_is_borne() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for n in [1, 2, 3, 7] {
            for share in [0.0, 0.1, 0.5, 1.0, 9.0] {
                let signal: Vec<f32> = (0..n).map(|t| t as f32).collect();
                let out = warp(&signal, 1, share, &mut rng);
                assert_eq!(out.len(), n);
                assert!(out.iter().all(|v| (0.0..=n as f32).contains(v)), "{n} {share} {out:?}");
                assert!(share != 0.0 || out == signal);
            }
        }
    }
}
