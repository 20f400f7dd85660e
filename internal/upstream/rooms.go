package upstream

import "github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"

// Keys has handshakes that have a key choose by it: those with the same one make a room,
// and come to the same upstream. Others' failures move no rooms, and nobody goes elsewhere
// until an upstream has started slowly, as the choice has to be the same at every node. Where
// only no handshake may begin now, they wait for that.
type Keys struct {
	// Balance is how many percent of its fair share an upstream may have before it gets
	// no new rooms. Zero means that rooms go by their order alone.
	Balance int
	// Group tells which pools count their rooms together, by any comparable value. It is
	// called without the lock.
	Group func() any
}

// ByKey has a handshake choose by a key, if its pool has some. Who has an empty one goes by
// the pool's policy. It reports whether the key is missed.
func (c *Candidates) ByKey(key string) (isMissed bool) {
	keys := c.pool.Keys
	if keys == nil || key == "" {
		return keys != nil
	}
	c.Key, c.HasKey = balance.Hash(key), true
	c.group = keys.Group()
	return false
}

// pickByKeyLocked returns the slot of the upstream that a key leads to, or -1 if none is
// available.
func (c *Candidates) pickByKeyLocked(slots []Slot) int {
	of, f := c.pool.Keys.fleetOf(slots)
	switch {
	case of == closed:
		return -1
	case f.Percent == 0:
		return firstInOrder(slots, of, c.Key)
	}
	return found(c.pool.table.roomsLocked(c.group).Member(c.Key, f), slots, of)
}

// fleetOf is what a search has to know of slots, and the class of those that are offered;
// closed if there are none.
func (k *Keys) fleetOf(slots []Slot) (of class, f balance.Fleet) {
	// One pass is enough for the usual class. All of this stays in registers.
	seen, tunnels, weights := uint64(0), 0, 0
	for i := range slots {
		s := &slots[i]
		tunnels += int(s.tunnels)
		if s.keyed < classes<<1 {
			seen |= 1 << s.keyed
		}
		if s.keyed == 0 {
			weights += int(s.weight)
		}
	}
	for of = 0; seen&(1<<of) == 0; of += backup {
		if of == kinds {
			return closed, f
		}
	}
	if of != 0 {
		weights = weightsOf(slots, of)
	}
	return of, balance.Fleet{Percent: k.Balance, Tunnels: tunnels, Weights: weights}
}

func weightsOf(slots []Slot, of class) (sum int) {
	for i := range slots {
		if s := &slots[i]; s.keyed == of {
			sum += int(s.weight)
		}
	}
	return sum
}

// firstInOrder returns the first slot of a kind in the rendezvous order of a key.
func firstInOrder(slots []Slot, of class, key uint64) int {
	rank := balance.RankOf(key)
	for i := range slots {
		s := &slots[i]
		if s.keyed == of && rank.MayWin(s.seed, int(s.weight)) {
			rank.Offer(i, s.seed, int(s.weight))
		}
	}
	return rank.First()
}

// found returns the slot of a kind that a search finds.
func found(seek balance.Seek, slots []Slot, of class) int {
	for i := range slots {
		s := &slots[i]
		if s.keyed == of && seek.MayWin(s.seed, int(s.weight)) {
			seek.Offer(i, s.seed, int(s.weight), int(s.tunnels))
		}
	}
	return seek.Found()
}

// RoomPlace is what a member of a room has at an upstream. It is held by a handshake, and
// then by its tunnel.
type RoomPlace struct {
	table     *Table
	group     any
	key, seed uint64
}

// Key is that of the room.
func (p *RoomPlace) Key() uint64 { return p.key }

// IsOf reports whether there is a place, in a room that a group of pools counts.
func (p *RoomPlace) IsOf(group any) bool { return p != nil && p.group == group }

// joinRoomLocked counts a handshake with a key as a member of its room. It returns nil for
// others.
func (c *Candidates) joinRoomLocked(h *Host) *RoomPlace {
	if !c.HasKey {
		return nil
	}
	t := c.pool.table
	rooms := t.rooms[c.group]
	if rooms == nil {
		rooms = new(balance.Rooms)
		t.rooms[c.group] = rooms
	}
	rooms.Add(c.Key, h.seed)
	return &RoomPlace{table: t, group: c.group, key: c.Key, seed: h.seed}
}

// noRooms are those of a group of which nobody is there.
var noRooms balance.Rooms

func (t *Table) roomsLocked(group any) *balance.Rooms {
	if rooms := t.rooms[group]; rooms != nil {
		return rooms
	}
	return &noRooms
}

// Leave gives the place back, if there is one.
func (p *RoomPlace) Leave() {
	if p == nil {
		return
	}
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	rooms := p.table.roomsLocked(p.group)
	rooms.Remove(p.key, p.seed)
	if rooms.Len() == 0 {
		delete(p.table.rooms, p.group)
	}
}

// MoveOn has who comes to the room not follow those who are at this upstream, as they are
// about to go.
func (p *RoomPlace) MoveOn() {
	if p == nil {
		return
	}
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	p.table.roomsLocked(p.group).Leave(p.key, p.seed)
}

// Elsewhere returns, for a pool with keys, the address to which a room's members would come that are at another one
// now, if they came anew; empty if to none. It may be the same.
func (p *Pool) Elsewhere(group any, key uint64, address string) string {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	of, f := p.Keys.fleetOf(p.slots)
	var at int
	switch {
	case of == closed:
		return ""
	case f.Percent == 0:
		at = firstInOrder(p.slots, of, key)
	default:
		at = found(p.table.roomsLocked(group).Without(key, balance.SeedOf(address), f), p.slots, of)
	}
	return p.slots[at].endpoint.Host.Address
}
