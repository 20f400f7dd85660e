package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// askTimeout is how long a source that is asked in handshakes may take.
	askTimeout = 2 * time.Second
	// keepExpansion is how long what it has found is kept when no tunnel needs
	// it any more, and maxExpansions bounds for how many values of placeholders.
	keepExpansion = 10 * time.Minute
	maxExpansions = 10_000
	// maxValues bounds the length of these values together, as they come from
	// clients.
	maxValues = 1 << 10
)

// expansion is a source whose configuration has placeholders, with the values
// that these have in some requests.
type expansion struct {
	from *provenance

	// What follows is guarded by the set's mu.

	current *asking     // under way, for all handshakes that need it
	found   []*endpoint // the last good answer
	invalid []string    // what was left out of it
	// failing is set when a line has said that there is no newer one.
	failing bool
}

// expansionSet is the expansions of the process, by configuration and values.
type expansionSet struct {
	mu    sync.Mutex // guards what follows; hosts.mu may be taken inside
	m     map[string]*expansion
	swept time.Time
	// finders are the sources of loaded configurations, by configuration, oldest
	// first.
	finders map[string][]*finder
}

var expansions = expansionSet{m: make(map[string]*expansion), finders: make(map[string][]*finder)}

// join adds a source.
func (set *expansionSet) join(s *finder) {
	hosts.nameTemplate(s.config)
	set.mu.Lock()
	defer set.mu.Unlock()
	set.finders[s.config] = append(set.finders[s.config], s)
}

// leave takes a source out. It reports whether some upstream may not be found
// any more.
func (set *expansionSet) leave(s *finder) (orphaned bool) {
	set.mu.Lock()
	left := slices.DeleteFunc(set.finders[s.config], func(other *finder) bool { return other == s })
	set.finders[s.config] = left
	if len(left) == 0 {
		delete(set.finders, s.config)
	}
	set.mu.Unlock()
	return hosts.unnameTemplate(s.config)
}

// askedLocked returns the source to ask in a handshake of s: itself, unless its
// configuration has been unloaded meanwhile and there is another one like it.
func (set *expansionSet) askedLocked(s *finder) *finder {
	alike := set.finders[s.config]
	if len(alike) == 0 || slices.Contains(alike, s) {
		return s
	}
	return alike[len(alike)-1]
}

// lookup is what a source is asked in one handshake.
type lookup struct {
	expansion *expansion
	asking    *asking
	err       error // why it is not asked
}

// lookUp begins to ask the source for a request.
func (s *finder) lookUp(r *http.Request) *lookup {
	values, err := s.values(r)
	if err != nil {
		return &lookup{err: err}
	}
	x, a := expansions.ask(s, values, r)
	return &lookup{expansion: x, asking: a}
}

// wait returns what the source finds, and where that comes from. If it fails or is
// late, that is what it has found last for the same values of the placeholders.
func (l *lookup) wait(ctx context.Context) ([]*endpoint, *provenance, error) {
	if l.err != nil {
		return nil, nil, l.err
	}
	x, a := l.expansion, l.asking
	select {
	case <-a.done:
	case <-a.ctx.Done():
	case <-ctx.Done():
	}
	expansions.mu.Lock()
	defer expansions.mu.Unlock()
	switch {
	case len(x.found) > 0:
		return x.found, x.from, nil
	case a.hasAnswer():
		return nil, nil, a.err
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	}
	return nil, nil, fmt.Errorf("no answer within %v", askTimeout)
}

// values returns what a request has for the placeholders of the source.
func (s *finder) values(r *http.Request) ([]string, error) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return nil, errors.New("the request has no placeholders")
	}
	values := make([]string, len(s.placeholders))
	length := 0
	for i, name := range s.placeholders {
		values[i], _ = repl.GetString(name)
		length += len(values[i])
	}
	if length > maxValues {
		return nil, fmt.Errorf("the placeholders have more than %d bytes", maxValues)
	}
	return values, nil
}

// ask returns the expansion for some values and the call that will bring its
// answer, which is one that is under way if there is any.
func (set *expansionSet) ask(s *finder, values []string, r *http.Request) (*expansion, *asking) {
	key := s.config + "\x00" + strings.Join(values, "\x00")
	set.mu.Lock()
	defer set.mu.Unlock()
	x, ok := set.m[key]
	if !ok {
		x = &expansion{from: &provenance{template: s.config, found: make(map[string]bool)}}
		set.addLocked(key, x)
	}
	hosts.touch(x.from)
	if x.current == nil {
		// Its end waits for the lock, so it is there before.
		x.current = set.askedLocked(s).ask(s.requestLike(r, values), askTimeout, func(a *asking) { set.settle(key, x, a) })
	}
	return x, x.current
}

// addLocked adds an expansion, if there is a place for it. What has no place is
// of use for the handshake that has made it.
func (set *expansionSet) addLocked(key string, x *expansion) {
	idle := func(since time.Duration) func(string, *expansion) bool {
		return func(_ string, x *expansion) bool { return x.current == nil && hosts.isIdle(x.from, since) }
	}
	if time.Since(set.swept) > keepExpansion/10 {
		set.swept = time.Now()
		maps.DeleteFunc(set.m, idle(keepExpansion))
	}
	if len(set.m) >= maxExpansions {
		for other, candidate := range set.m {
			if idle(0)(other, candidate) {
				delete(set.m, other)
				break
			}
		}
	}
	if len(set.m) < maxExpansions {
		set.m[key] = x
	}
}

// settle takes over an answer.
func (set *expansionSet) settle(key string, x *expansion, a *asking) {
	set.mu.Lock()
	x.current = nil
	lost := false
	switch {
	case a.err == nil:
		if len(a.invalid) > 0 && !slices.Equal(a.invalid, x.invalid) {
			a.source.log.Warn(foundUnusable, zap.Strings("upstreams", a.invalid))
		}
		x.found, x.invalid, x.failing = a.found, a.invalid, false
		lost = hosts.renew(x.from, a.found)
	case x.found == nil:
		// Of values that no answer is known for there are as many as clients want.
		if set.m[key] == x {
			delete(set.m, key)
		}
	case !x.failing:
		x.failing = true
		a.source.log.Warn("upstream source fails; what it has found last for the same placeholders stays",
			zap.Int("found", len(x.found)), failure(a.err))
	}
	set.mu.Unlock()
	if lost {
		liveTunnels.evictOrphans()
	}
}

// requestLike returns a request for the source that is not the client's: the
// answer is for others too, and what the source does may take longer than that
// request lives.
func (s *finder) requestLike(r *http.Request, values []string) *http.Request {
	repl := caddy.NewReplacer()
	for i, name := range s.placeholders {
		repl.Set(name, values[i])
	}
	ctx := context.WithValue(context.WithoutCancel(r.Context()), caddy.ReplacerCtxKey, repl)
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	like := r.Clone(ctx)
	like.Body = http.NoBody
	return like
}

// slots are the places in the pool of what a source finds in handshakes, so that
// policies know them again.
type slots struct {
	mu sync.Mutex
	m  map[place]*slot
}

// place is an address that was found for certain requests.
type place struct {
	from *provenance
	dial string
}

// slotFor returns the place of e, which was found there.
func (s *finder) slotFor(o *provenance, e *endpoint) *slot {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	key := place{o, e.dial}
	if found, ok := s.slots.m[key]; ok {
		return found
	}
	if s.slots.m == nil || len(s.slots.m) >= maxExpansions {
		s.slots.m = make(map[place]*slot)
	}
	made := s.newSlot(e.dial)
	s.slots.m[key] = made
	return made
}
