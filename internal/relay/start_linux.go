package relay

// Start relays between client and upstream until both have ended. It returns
// at once.
func Start(client, upstream Side, hooks Hooks) Relay {
	if r, ok := startPolled(client, upstream, hooks); ok {
		return r
	}
	return startGoroutines(client, upstream, hooks)
}
