//go:build !linux

package relay

// Start relays between client and upstream until both have ended. It returns
// at once.
func Start(client, upstream Side, hooks Hooks) Relay {
	return startGoroutines(client, upstream, hooks)
}
