"""Looking at trained mixtures: routes as random variables, uncertainty, theory, landscapes."""
