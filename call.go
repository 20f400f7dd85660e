package websocketproxy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// call is one exchange with the storage.
type call struct {
	known   operatorStates // when it began
	timer   *time.Timer
	cancel  context.CancelFunc
	result  chan exchanged // has room for it, as there may be nobody left
	settled chan struct{}  // closed when errs is set
	errs    exchangeErrors
}

// exchanged is what a call brings.
type exchanged struct {
	learned operatorStates
	errs    exchangeErrors
	// ahead are the addresses of which times were ignored.
	ahead map[string]bool
}

// exchangeErrors tell why a document could not be read or written.
type exchangeErrors struct {
	shared, local error
}

func newCall() *call {
	return &call{result: make(chan exchanged, 1), settled: make(chan struct{})}
}

func (c *call) settle(err error) {
	c.errs = exchangeErrors{err, err}
	close(c.settled)
}

// call exchanges what was known when c began.
func (s *sharer) call(ctx context.Context, c *call) {
	defer s.keeper.calls.Add(-1)
	var r exchanged
	defer func() { c.result <- r }()
	defer func() {
		// The process holds tunnels that have nothing to do with it.
		if p := recover(); p != nil {
			err := fmt.Errorf("the storage has panicked: %v", p)
			r = exchanged{errs: exchangeErrors{err, err}}
		}
	}()
	shared, local := c.known.part(false), c.known.part(true)
	r.learned, r.ahead = make(operatorStates), make(map[string]bool)
	d := document{storage: s.storage, key: sharedKey, uses: s.keeper.table.uses, ahead: r.ahead}
	r.errs.shared = d.add(ctx, shared, r.learned)
	if s.looked && len(local) == 0 {
		return // nobody else writes what is this instance's own
	}
	instance, err := instanceID(ctx)
	if err != nil {
		maps.Copy(r.learned, local)
		r.errs.local = fmt.Errorf("reading the id of this instance: %w", err)
		return
	}
	host, _ := os.Hostname() // one without a name has that in common with itself
	d.key, d.local = localKeyOf(instance, host), true
	r.errs.local = d.add(ctx, local, r.learned)
	s.looked = r.errs.local == nil
}

// add puts what is known after an exchange into all: if it fails, that is what
// was known before.
func (d *document) add(ctx context.Context, known, all operatorStates) error {
	learned, err := d.exchange(ctx, known)
	if err != nil {
		learned = known
	}
	maps.Copy(all, learned)
	return err
}

// localKeyOf is for an instance on a host.
func localKeyOf(instance fmt.Stringer, host string) string {
	sum := sha256.Sum256([]byte(host))
	return fmt.Sprintf(localKey, instance, sum[:8])
}

// instanceID returns the id of this instance. When there is none yet, others in
// the process make one too, and the last one counts: so for a moment it may be
// incomplete, and then another one. That is why it is not remembered.
func instanceID(ctx context.Context) (id fmt.Stringer, err error) {
	for range 5 {
		if id, err = caddy.InstanceID(); err == nil {
			return id, nil
		}
		select {
		case <-ctx.Done():
			return id, err
		case <-time.After(50 * time.Millisecond):
		}
	}
	return id, err
}
