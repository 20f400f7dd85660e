package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Storage is what is used of Caddy's storage. Its implementations are other
// people's code and may be servers elsewhere: calls may fail, take long, or
// ignore their context and never come back.
type Storage interface {
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
}

const (
	// sharedKey is for all instances that share the storage.
	sharedKey = "websocket_proxy/upstreams.json"
	// localKey is for the addresses that mean something else on every machine; its
	// arguments are the instance and a hash of the host's name. The instance alone
	// does not tell: Caddy keeps its id where files are stored by default, which
	// machines may share.
	localKey = "websocket_proxy/instances/%s-%x/upstreams.json"

	// documentVersion changes when older instances cannot read documents any
	// more, or would lose some of it when they write them.
	documentVersion = 1
)

// document is a place in the storage that has a part of the states.
type document struct {
	storage Storage
	key     string
	local   bool
	uses    func(address string) bool
	// ahead gets the addresses of which times are ignored.
	ahead map[string]bool
}

// documentContent is what is stored.
type documentContent struct {
	Version   int                    `json:"version"`
	Upstreams map[string]storedState `json:"upstreams"`
}

// words are what is stored, as it is meant.
func (c *documentContent) words() words {
	all := make(words, len(c.Upstreams))
	for address, s := range c.Upstreams {
		all[address] = s.meant()
	}
	return all
}

// storedState is a state as it is stored. Older instances know ready, drain and evict, and
// let nobody in where another one says drain. So drain and maint are both stored as drain,
// and Means has which it is: an older instance keeps everybody away, as it would let
// everybody in for a word that it does not know. It loses what Means says when it writes.
type storedState struct {
	upstream.State

	// Means is drain or maint. Without it, a drain is of an older instance, so maint.
	Means string `json:"means,omitempty"`
}

// storedForm is how a state is stored.
func storedForm(s upstream.State) storedState {
	stored := storedState{State: s}
	if s.State == upstream.Drain || s.State == upstream.Maint {
		stored.State.State, stored.Means = upstream.Drain, s.State
	}
	return stored
}

// meant is the state that was stored.
func (s storedState) meant() upstream.State {
	if s.State.State == upstream.Drain && s.Means != upstream.Drain {
		s.State.State = upstream.Maint
	}
	return s.State
}

// exchange adds what is known to the document and returns what is known then.
// Only if that differs from what is stored it writes, which it does under the
// storage's lock.
func (d *document) exchange(ctx context.Context, known words) (all words, err error) {
	all, isStored, err := d.merge(ctx, known)
	if err != nil || isStored {
		return all, err
	}
	if err := d.storage.Lock(ctx, d.key); err != nil {
		return nil, fmt.Errorf("locking %s: %w", d.key, err)
	}
	defer func() { err = errors.Join(err, d.unlock(ctx)) }()
	if err := ctx.Err(); err != nil { // a lock that was waited for too long
		return nil, fmt.Errorf("locking %s: %w", d.key, err)
	}
	all, isStored, err = d.merge(ctx, known)
	if err != nil || isStored {
		return all, err
	}
	return all, d.save(ctx, all)
}

// merge returns what is known and stored, and whether that is what is stored.
func (d *document) merge(ctx context.Context, known words) (all words, isStored bool, err error) {
	stored, err := d.load(ctx)
	if err != nil {
		return nil, false, err
	}
	all = known.merged(stored, time.Now(), d.uses)
	return all, all.equal(stored), nil
}

// load returns what is stored, which is nothing if there is no document.
func (d *document) load(ctx context.Context) (words, error) {
	value, err := d.storage.Load(ctx, d.key)
	if errors.Is(err, fs.ErrNotExist) {
		return words{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", d.key, err)
	}
	var content documentContent
	if err := json.Unmarshal(value, &content); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); delete it, and it is written again", d.key, err)
	}
	if content.Version != documentVersion {
		return nil, fmt.Errorf("%s has version %d, and this instance knows only %d; upgrade it, or delete the document",
			d.key, content.Version, documentVersion)
	}
	// Whatever the document says, states of local addresses are not shared.
	all, ahead := content.words().part(d.local).plausible(time.Now())
	for _, address := range ahead {
		d.ahead[address] = true
	}
	return all, nil
}

func (d *document) save(ctx context.Context, states words) error {
	upstreams := make(map[string]storedState, len(states))
	for address, s := range states {
		upstreams[address] = storedForm(s)
	}
	value, err := json.Marshal(documentContent{Version: documentVersion, Upstreams: upstreams})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", d.key, err)
	}
	if err := d.storage.Store(ctx, d.key, value); err != nil {
		return fmt.Errorf("storing %s: %w", d.key, err)
	}
	return nil
}

// unlock gives the lock back, also if there is no time for anything else.
func (d *document) unlock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	// Where the storage was deleted meanwhile, the lock was too.
	if err := d.storage.Unlock(ctx, d.key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unlocking %s: %w", d.key, err)
	}
	return nil
}
