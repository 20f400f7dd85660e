package evict

import (
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// choose returns the tunnels to close for n that are too many, of those that may be: first
// whole rooms, one after another, then those that belong to none.
func (b *rebalancer) choose(v *balance.Levels, n int, addresses []string, movable [][]*tunnel.Tunnel) (closing []*tunnel.Tunnel) {
	inRooms := make([]int, len(movable)) // that go
	if b.loaded.Pool.Keys != nil {
		crowds, members := b.crowds(v, addresses, movable)
		for _, c := range v.Crowds(crowds, n) {
			crowd := members[c.From][c.Key]
			tunnel.IdleFirst(crowd)
			closing = append(closing, crowd...)
			inRooms[c.From] += c.Members
		}
	}
	var loose []*tunnel.Tunnel
	for i, n := range v.Closings(n) {
		tunnel.IdleFirst(movable[i])
		loose = append(loose, movable[i][:min(max(0, n-inRooms[i]), len(movable[i]))]...)
	}
	tunnel.IdleFirst(loose)
	return append(closing, loose...)
}

// crowds returns the rooms at upstreams that have too many tunnels, and their members there
// by their keys. Those are taken out of what is movable.
func (b *rebalancer) crowds(
	v *balance.Levels, addresses []string, movable [][]*tunnel.Tunnel,
) (crowds []balance.Crowd, members []map[uint64][]*tunnel.Tunnel) {
	index := make(map[string]int)
	for i, address := range addresses {
		index[address] = i
	}
	group := b.loaded.Pool.Keys.Group()
	members = make([]map[uint64][]*tunnel.Tunnel, len(movable))
	for i := range movable {
		if !v.IsLong(i) {
			continue
		}
		members[i] = make(map[uint64][]*tunnel.Tunnel)
		loose := movable[i][:0]
		for _, t := range movable[i] {
			// The keys of a handler whose keys were made of something else say nothing.
			if room := LeaseOf(t).Room; room.IsOf(group) {
				members[i][room.Key()] = append(members[i][room.Key()], t)
			} else {
				loose = append(loose, t)
			}
		}
		movable[i] = loose
		for key, crowd := range members[i] {
			if to, known := index[b.loaded.Pool.Elsewhere(group, key, addresses[i])]; known {
				crowds = append(crowds, balance.Crowd{Key: key, From: i, To: to, Members: len(crowd)})
			}
		}
	}
	return crowds, members
}
