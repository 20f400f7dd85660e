package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
)

// round is one exchange with the storage: what is known here becomes known there, and
// the other way round.
type round struct {
	known   words         // when it began
	settled chan struct{} // closed when errs is set
	errs    exchangeErrors
}

// exchanged is what a round brings.
type exchanged struct {
	learned words
	errs    exchangeErrors
	// ahead are the addresses of which times were ignored.
	ahead map[string]bool
	// looked tells that this instance's own document has been read, now or before.
	looked bool
}

// exchangeErrors tell why a document could not be read or written.
type exchangeErrors struct {
	shared, local error
}

func newRound() *round {
	return &round{settled: make(chan struct{})}
}

func (r *round) settle(errs exchangeErrors) {
	r.errs = errs
	close(r.settled)
}

// exchange exchanges what is known. looked tells that this instance's own document has
// been read before.
func (c *Config) exchange(
	ctx context.Context, known words, looked bool, uses func(string) bool,
) (exchanged, error) {
	r := exchanged{learned: make(words), ahead: make(map[string]bool), looked: looked}
	shared, local := known.part(false), known.part(true)
	d := document{storage: c.Storage, key: sharedKey, uses: uses, ahead: r.ahead}
	r.errs.shared = d.add(ctx, shared, r.learned)
	if looked && len(local) == 0 {
		return r, nil // nobody else writes what is this instance's own
	}
	id, host, err := c.Instance(ctx)
	if err != nil {
		maps.Copy(r.learned, local)
		r.errs.local = fmt.Errorf("reading the id of this instance: %w", err)
		return r, nil
	}
	d.key, d.local = localKeyOf(id, host), true
	r.errs.local = d.add(ctx, local, r.learned)
	r.looked = r.errs.local == nil
	return r, nil
}

// add puts what is known after an exchange into all: if it fails, that is what
// was known before.
func (d *document) add(ctx context.Context, known, all words) error {
	learned, err := d.exchange(ctx, known)
	if err != nil {
		learned = known
	}
	maps.Copy(all, learned)
	return err
}

// localKeyOf is for an instance on a host.
func localKeyOf(id, host string) string {
	sum := sha256.Sum256([]byte(host))
	return fmt.Sprintf(localKey, id, sum[:8])
}
