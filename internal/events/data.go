package events

import (
	"slices"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Moved tells that tunnels begin to be ended so that their clients come back elsewhere.
func (p *Process) Moved(all []tunnel.Move) {
	for _, m := range all {
		if m.Reason == tunnel.Killed {
			continue // which is about the clients
		}
		var upstreams []string
		for _, address := range m.Upstreams {
			upstreams = append(upstreams, printable.Text(address))
		}
		slices.Sort(upstreams)
		p.Emit(TunnelsMoved, Data{
			"reason": string(m.Reason), "by": printable.Text(m.By), "tunnels": m.Tunnels, "upstreams": upstreams,
		})
	}
}
