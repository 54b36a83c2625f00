//! Statements that run more than once.

/// Makes the type `Statements`, in which each statement of a connection has a name: what is prepared when the connection is made.
#[macro_export]
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $sql:expr;)+) => {
        /// The prepared statements of a connection.
        pub(super) struct Statements {
            $($(#[$doc])* pub $name: ::tokio_postgres::Statement,)+
        }

        impl Statements {
            /// Prepares them all, in one flight.
            pub(super) async fn prepare(
                client: &::tokio_postgres::Client,
            ) -> Result<Statements, ::tokio_postgres::Error> {
                let ($($name,)+) = ::tokio::try_join!($(client.prepare($sql)),+)?;
                Ok(Statements { $($name),+ })
            }
        }
    };
}
