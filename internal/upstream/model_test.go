package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// A model of clients and upstreams, in virtual time and without sockets, in which rules for
// who gets newcomers are compared. Choices, counts and doubts are the real ones.

// rule is what follows from a handshake that an upstream has not answered as it should.
type rule string

const (
	nothingFollows rule = "nothing"
	threeInATime   rule = "three in a time" // what a client may have a part in counts as what no client has
	witnesses      rule = "witnesses"
)

// reply is what an upstream says to a handshake.
type reply struct {
	opens  bool
	after  time.Duration
	resets bool // right after it has opened the tunnel
}

// never is when somebody answers who does not.
const never = 24 * time.Hour

// temper is how an upstream answers.
type temper func(v *visitor) reply

func works(v *visitor) reply {
	return reply{opens: true, after: 10*time.Millisecond + time.Duration(v.random.ExpFloat64()*float64(30*time.Millisecond))}
}

func refuses(v *visitor) reply { r := works(v); r.opens = false; r.after /= 10; return r }

func isSilent(*visitor) reply { return reply{after: never} }

func resetsAll(v *visitor) reply { r := works(v); r.resets = true; return r }

// half has an upstream be so for every second handshake.
func half(bad temper) temper {
	return func(v *visitor) reply {
		if v.random.IntN(2) == 0 {
			return bad(v)
		}
		return works(v)
	}
}

// inTurn has an upstream be so in every second period.
func inTurn(bad temper, period time.Duration) temper {
	began := time.Now()
	return func(v *visitor) reply {
		if time.Since(began)/period%2 == 0 {
			return bad(v)
		}
		return works(v)
	}
}

// visitor is who comes for a tunnel.
type visitor struct {
	random   *rand.Rand
	network  int
	patience time.Duration // what is left of it
	// asks is how any upstream answers it; nil if that is the upstream's own.
	asks temper
	// isNew tells that upstreams of the older release do not know what it wants.
	isNew bool
}

func (v *visitor) isGood() bool { return v.asks == nil }

// scene is what is simulated.
type scene struct {
	rule      rule
	upstreams int
	bad       int // so many of them
	temper    func() temper
	rate      float64 // clients a second
	// attacks are hostile requests a second, which come from so many networks, and are
	// answered like this wherever they go.
	attacks  float64
	networks int
	hostile  temper
	leaves   time.Duration // how long attackers wait
	// newer is how many of the clients want what the bad ones do not know.
	newer float64
	// from is when the bad ones become so, and heal when they are good again; 0: never.
	from, heal time.Duration
	seed       uint64
}

const (
	simulated  = 10 * time.Minute
	tunnelLife = 2 * time.Minute
)

// outcome is what has come of a scene.
type outcome struct {
	clients, lost int
	lostBy        map[string]int // where they were sent
	sent          []int          // where clients were sent by choice, the bad ones first
	asked         int            // how often witnesses were
	// wrongly is how often a good upstream became doubtful, and longest for how long at a
	// time.
	wrongly int
	longest time.Duration
	// trusted is when a bad one was last doubtful.
	trusted time.Duration
	// heaviest is the most tunnels that a good one has, in the end, where 1 is the mean.
	heaviest float64
}

func (o *outcome) lostShare() float64 { return float64(o.lost) / float64(max(1, o.clients)) }

// mostLostBy is how many were lost by the upstream that has lost most of those.
func (o *outcome) mostLostBy() (most int) {
	for _, n := range o.lostBy {
		most = max(most, n)
	}
	return most
}

// spread is the least and the largest share of the good upstreams, where 1 is fair.
func (o *outcome) spread(bad int) (least, largest float64) {
	good, all := o.sent[bad:], 0
	for _, n := range good {
		all += n
	}
	least = 1
	for _, n := range good {
		share := float64(n*len(good)) / float64(max(1, all))
		least, largest = min(least, share), max(largest, share)
	}
	return least, largest
}

// model is a scene that is played.
type model struct {
	scene
	*site

	began   time.Time
	over    chan struct{}
	tempers map[string]temper
	index   map[string]int
	all     sync.WaitGroup

	mu  sync.Mutex // guards what follows
	out outcome
}

// play simulates a scene, beside others, and has what comes of it checked. That is the same in
// every run.
func play(t *testing.T, sc scene, check func(t *testing.T, o *outcome)) {
	t.Helper()
	inWorld(t, func(t *testing.T, w *world) {
		w.random = seededBy(sc.seed, 1).IntN
		addresses := make([]string, sc.upstreams)
		for i := range addresses {
			addresses[i] = fmt.Sprintf("u%d:1", i)
		}
		m := &model{scene: sc, site: w.load(doubting, addresses...), began: time.Now(), over: make(chan struct{})}
		m.tempers, m.index = make(map[string]temper), make(map[string]int)
		m.out.lostBy, m.out.sent = make(map[string]int), make([]int, sc.upstreams)
		for i, address := range addresses {
			if m.index[address] = i; i < sc.bad && sc.temper != nil {
				m.tempers[address] = sc.temper()
			}
		}
		m.all.Go(func() { m.arrive(2, sc.rate, m.client) })
		m.all.Go(func() { m.arrive(3, sc.attacks, m.attacker) })
		m.all.Go(m.watch)
		time.Sleep(simulated)
		m.out.heaviest = heaviestOf(m.counts()[min(sc.bad, sc.upstreams-1):])
		close(m.over)
		m.all.Wait()
		check(t, &m.out)
	})
}

// heaviestOf is the largest of some numbers, where 1 is their mean.
func heaviestOf(all []int) float64 {
	sum := 0
	for _, n := range all {
		sum += n
	}
	return float64(slices.Max(all)*len(all)) / float64(max(1, sum))
}

// seededBy returns random numbers that are the same in every run.
func seededBy(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// arrive has visitors come at random times.
func (m *model) arrive(stream uint64, rate float64, who func(*rand.Rand) *visitor) {
	random := seededBy(m.seed, stream)
	for rate > 0 && m.sleeps(time.Duration(random.ExpFloat64()/rate*float64(time.Second))) {
		v := who(seededBy(m.seed, random.Uint64()))
		m.all.Go(func() { m.visit(v) })
	}
}

// sleeps returns false if the scene is over before.
func (m *model) sleeps(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-m.over:
		return false
	}
}

func (m *model) client(random *rand.Rand) *visitor {
	return &visitor{
		random: random, network: 1000 + random.IntN(10000), isNew: random.Float64() < m.newer,
		patience: 4*time.Second + time.Duration(random.Float64()*float64(16*time.Second)),
	}
}

func (m *model) attacker(random *rand.Rand) *visitor {
	return &visitor{random: random, network: random.IntN(m.networks), patience: m.leaves, asks: m.hostile}
}

// watch looks at good upstreams that are doubtful.
func (m *model) watch() {
	since := make(map[string]time.Duration)
	for m.sleeps(time.Second) {
		for _, i := range m.w.List() {
			if i.Doubtful && m.index[i.Address] < m.bad {
				m.count(func(o *outcome) { o.trusted = time.Since(m.began) })
			}
			if !i.Doubtful || m.index[i.Address] < m.bad {
				since[i.Address] = 0
				continue
			}
			m.count(func(o *outcome) {
				if since[i.Address] == 0 {
					o.wrongly++
				}
				since[i.Address] += time.Second
				o.longest = max(o.longest, since[i.Address])
			})
		}
	}
}

// visit is a client from its handshake to the end of its tunnel.
func (m *model) visit(v *visitor) {
	c := m.candidates()
	defer c.Close()
	chosen, err := c.Next(m.w.t.Context())
	if err != nil || chosen == nil {
		m.w.t.Errorf("got %+v, %v", chosen, err)
		return
	}
	of := m.index[chosen.Host.Address]
	m.count(func(o *outcome) {
		if v.isGood() && !chosen.Trial {
			o.sent[of]++
		}
	})
	won, resets := m.handshake(c, chosen, v)
	m.count(func(o *outcome) {
		if !v.isGood() || m.isOver() {
			return
		}
		if o.clients++; won == nil || resets {
			o.lost++
			o.lostBy[chosen.Host.Address]++
		}
	})
	if won == nil {
		return
	}
	if resets {
		m.sleeps(20 * time.Millisecond)
		if m.w.GiveBack(won); m.rule == witnesses {
			m.w.WasReset(won.Endpoint.Failures, client(v.network))
		}
		return
	}
	m.sleeps(time.Duration(v.random.ExpFloat64() * float64(tunnelLife)))
	m.w.GiveBack(won)
}

func (m *model) isOver() bool {
	select {
	case <-m.over:
		return true
	default:
		return false
	}
}

func (m *model) count(do func(*outcome)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do(&m.out)
}

// ask is what an upstream answers.
func (m *model) ask(c *Choice, v *visitor) reply {
	passed := time.Since(m.began)
	isBad := m.index[c.Host.Address] < m.bad && passed >= m.from && (m.heal == 0 || passed < m.heal)
	switch {
	case v.asks != nil:
		return v.asks(v)
	case isBad && m.scene.temper != nil:
		return m.tempers[c.Host.Address](v)
	case isBad && v.isNew:
		return refuses(v)
	}
	return works(v)
}
