//! Finding things in big pictures and looking inside networks.
