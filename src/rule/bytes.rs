//! A table of what every byte is, made while we compile: one load instead of several comparisons.

/// `[$class(0), $class(1), …, $class(255)]`. A macro, because a `const fn` cannot call one that it is given.
macro_rules! of_every_byte {
    ($class:ident) => {{
        let mut table = [$class(0); 256];
        let mut byte: u8 = u8::MAX;
        while byte > 0 {
            table[byte as usize] = $class(byte);
            byte -= 1;
        }
        table
    }};
}

pub(super) use of_every_byte;
