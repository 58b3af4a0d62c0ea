"""The small vision-language model that is built in: how it is made, from nothing but our own data."""
