package upstream

import (
	"math"
	"slices"
	"time"
)

// What becomes of reports of load. As in gRPC, an upstream's own are not used at first, as
// it may just have begun and be busy with that, and not when they are old.
const (
	loadBlackout = 10 * time.Second
	loadExpiry   = 3 * time.Minute
	// loadBound is by which factor reports may make a share larger or smaller than it is
	// configured. So one that lies does not get everybody, and one that is busy with
	// something else is not forgotten.
	loadBound = 8
	// loadInterval is how often shares are reckoned anew, at most.
	loadInterval = 100 * time.Millisecond
	// leastLoad and highestLoad are far beyond what makes a difference.
	leastLoad, highestLoad = 1e-9, 1e9
)

// Load is what an address has said of its load. It is shared by all endpoints of the
// address whose handlers go by the same metrics.
type Load struct {
	host *Host
	key  string // of the metrics

	// All are guarded by the table's lock.
	endpoints   int
	utilisation float64 // of the last report; 0 if there was none
	tunnels     int     // at that time
	at, since   time.Time
}

// WatchLoad has an endpoint go by what its address says of its load, in the metrics that
// key stands for.
func (t *Table) WatchLoad(e *Endpoint, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := e.Host
	i := slices.IndexFunc(h.loads, func(l *Load) bool { return l.key == key })
	if i < 0 {
		i = len(h.loads)
		h.loads = append(h.loads, &Load{host: h, key: key})
	}
	e.Load = h.loads[i]
	e.Load.endpoints++
}

// UnwatchLoad takes that back. With the last endpoint, what was said is forgotten.
func (t *Table) UnwatchLoad(e *Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Load.endpoints--; e.Load.endpoints == 0 {
		h := e.Load.host
		h.loads = slices.DeleteFunc(h.loads, func(l *Load) bool { return l == e.Load })
	}
}

// Reported takes note of a utilisation. One that is not more than 0, or no number, is none.
func (t *Table) Reported(l *Load, utilisation float64) {
	if l == nil || !(utilisation > 0) || math.IsInf(utilisation, 1) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if l.at.IsZero() || now.Sub(l.at) >= loadExpiry {
		l.since = now
	}
	l.utilisation, l.at = min(max(utilisation, leastLoad), highestLoad), now
	l.tunnels = l.host.tunnels
}

// capacityLocked is how many tunnels would use the upstream up, as far as is known: u for
// t tunnels means that one more makes it u × (t+1) / t, so who has the fewest tunnels for
// its capacity will have the least utilisation. It is 0 if no report counts.
func (l *Load) capacityLocked(now time.Time) float64 {
	if l == nil || l.at.IsZero() || now.Sub(l.at) >= loadExpiry || now.Sub(l.since) < loadBlackout {
		return 0
	}
	return float64(max(l.tunnels, 1)) / l.utilisation
}

// utilisationLocked is the last report, or 0 if there is none that is not old.
func (l *Load) utilisationLocked(now time.Time) float64 {
	if l == nil || l.at.IsZero() || now.Sub(l.at) >= loadExpiry {
		return 0
	}
	return l.utilisation
}

// weighLocked has the slots of a pool weigh what follows from reports of load.
func (p *Pool) weighLocked(now time.Time) {
	if now.Before(p.weighed.Add(loadInterval)) {
		return
	}
	p.weighed = now
	for _, backups := range []bool{false, true} {
		p.portions = p.portions[:0]
		for i := range p.slots {
			if e := p.slots[i].endpoint; e.Server.Backup == backups {
				weight := float64(e.word.scale(e.Server.Weight))
				// An agent that says 50 % wants half of what the upstream would get.
				said := weight / float64(e.Server.Weight*weightScale)
				p.portions = append(p.portions, portion{weight: weight, capacity: said * e.Load.capacityLocked(now), of: e})
			}
		}
		level(p.portions)
		for _, s := range p.portions {
			s.of.share = 0
			if s.capacity > 0 {
				s.of.share = int(math.Ceil(s.weight))
			}
			s.of.showLocked()
		}
	}
}

// portion is an upstream's part of the newcomers of its pool: what it weighs, and how many
// tunnels it could take by what it says; 0 if it says nothing.
type portion struct {
	weight, capacity float64
	of               *Endpoint
}

// clamped is the weight that follows from a capacity, each unit of which weighs so much.
func (s portion) clamped(unit float64) float64 {
	return min(max(s.capacity*unit, s.weight/loadBound), s.weight*loadBound)
}

// level has those that say what they can take share their weights by that. The sum of these
// stays, so that those that say nothing keep their part, and so does each within loadBound.
func level(portions []portion) {
	var weights, capacities float64
	lowest, highest := math.Inf(1), 0.0
	for _, s := range portions {
		if s.capacity > 0 {
			weights += s.weight
			capacities += s.capacity
			lowest = min(lowest, s.weight/s.capacity/loadBound)
			highest = max(highest, s.weight/s.capacity*loadBound)
		}
	}
	if capacities == 0 {
		return
	}
	unit := weights / capacities
	if !slices.ContainsFunc(portions, func(s portion) bool { return s.capacity > 0 && s.clamped(unit) != s.capacity*unit }) {
		lowest, highest = unit, unit // as nearly always
	}
	for highest > lowest*(1+1e-6) {
		unit = math.Sqrt(lowest * highest)
		var sum float64
		for _, s := range portions {
			if s.capacity > 0 {
				sum += s.clamped(unit)
			}
		}
		if sum > weights {
			highest = unit
		} else {
			lowest = unit
		}
	}
	for i, s := range portions {
		if s.capacity > 0 {
			portions[i].weight = s.clamped(unit)
		}
	}
}
