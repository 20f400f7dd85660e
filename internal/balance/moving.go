package balance

import (
	"cmp"
	"slices"
)

// Crowd is what a room has at an upstream that has too many tunnels.
type Crowd struct {
	Key uint64
	// Members may all be closed.
	Members int
}

// Moving returns those of some rooms at one upstream that are to go, whole, for n
// tunnels to be closed now and excess in all, the largest first. It changes the
// order of the rooms, which are those that would go elsewhere as new ones.
//
// No room is larger than what is left of the excess. Only if all are, the
// smallest goes, and only if the upstream then is nearer to what it should have
// than with it. A step may close more than n, by less than one room.
func Moving(rooms []Crowd, n, excess int) []Crowd {
	if n <= 0 || excess <= 0 || len(rooms) == 0 {
		return nil
	}
	slices.SortFunc(rooms, func(a, b Crowd) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(a.Key, b.Key))
	})
	if last := rooms[len(rooms)-1:]; last[0].Members > excess {
		if last[0].Members < 2*excess {
			return last
		}
		return nil
	}
	going := 0
	for _, room := range rooms {
		if n <= 0 {
			break
		}
		if room.Members <= excess {
			rooms[going] = room
			going++
			n -= room.Members
			excess -= room.Members
		}
	}
	return rooms[:going]
}
