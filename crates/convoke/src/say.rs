//! What is printed. Names of files, classes and layers come from strangers: characters that would colour a terminal,
//! move its cursor or retitle its window are written out as JSON would write them.

macro_rules! println {
    () => { $crate::say::out("") };
    ($($told:tt)*) => { $crate::say::out(&format!($($told)*)) };
}

macro_rules! print {
    ($($told:tt)*) => { std::print!("{}", $crate::say::tame(&format!($($told)*))) };
}

macro_rules! eprintln {
    () => { $crate::say::err("") };
    ($($told:tt)*) => { $crate::say::err(&format!($($told)*)) };
}

/// A line to standard output.
pub fn out(text: &str) {
    std::println!("{}", tame(text));
}

/// A line to standard error.
pub fn err(text: &str) {
    std::eprintln!("{}", tame(text));
}

/// The text with line ends as they are and other control characters written out.
pub fn tame(text: &str) -> String {
    text.split('\n').map(convoke_data::printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_lines_reaches_the_terminal() {
        assert_eq!(tame("a\x1b[31m\r\n\u{9b}b\tä"), "a\\u001b[31m\\u000d\n\\u009bb\\u0009ä");
    }
}
