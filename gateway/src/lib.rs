//! Terminates client links: long link, short link, sessions; owns no data.
