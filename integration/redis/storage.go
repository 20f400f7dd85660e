// Package redis is a storage for Caddy in a Redis server, made for tests: what plugins for
// it have in common, and no more. The tests beside it run Caddys on a real server.
package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	client "github.com/redis/go-redis/v9"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

const (
	// LockTime is how long a lock is held whose holder does not say that it lives.
	LockTime = 5 * time.Second
	// lockInterval is how often somebody who waits for a lock tries to get it.
	lockInterval = 250 * time.Millisecond

	lockPrefix          = "lock/"
	fieldValue          = "value"
	fieldModified       = "modified"
	valuePrefix         = "caddy/"
	scanCount     int64 = 1000
)

// unlock deletes a lock, and prolong lets it live on, if it is still the caller's.
var (
	unlock  = client.NewScript(`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end return 0`)
	prolong = client.NewScript(
		`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("pexpire", KEYS[1], ARGV[2]) end return 0`)
)

func init() {
	caddy.RegisterModule(new(Storage))
}

// Storage keeps values in hashes, and locks in keys that expire. The client's timeouts
// are its defaults, so that calls do not end with their context.
type Storage struct {
	// Address is host and port of the server.
	Address string `json:"address"`

	client *client.Client
	mu     sync.Mutex
	held   map[string]*lock
}

type lock struct {
	token string
	stop  chan struct{} // ends what prolongs it
	ended chan struct{}
}

// New returns a storage that is ready for use.
func New(address string) *Storage {
	s := &Storage{Address: address}
	s.open()
	return s
}

func (s *Storage) open() {
	s.client, s.held = client.NewClient(&client.Options{Addr: s.Address}), make(map[string]*lock)
}

// CaddyModule returns the module's information.
func (*Storage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.redis", New: func() caddy.Module { return new(Storage) }}
}

// UnmarshalCaddyfile reads the address.
func (s *Storage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.Next(); !d.AllArgs(&s.Address) {
		return d.ArgErr()
	}
	return nil
}

// Provision makes the client.
func (s *Storage) Provision(caddy.Context) error {
	s.open()
	return nil
}

// Cleanup closes its connections.
func (s *Storage) Cleanup() error { return s.client.Close() }

// CertMagicStorage returns the storage itself.
func (s *Storage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

// Store keeps a value.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	return s.client.HSet(ctx, valuePrefix+key, fieldValue, value, fieldModified, time.Now().UnixMilli()).Err()
}

// Load returns a value, or fs.ErrNotExist.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.client.HGet(ctx, valuePrefix+key, fieldValue).Bytes()
	return value, known(err)
}

// Delete forgets a value.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return s.client.Del(ctx, valuePrefix+key).Err()
}

// Exists reports whether there is a value.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	n, err := s.client.Exists(ctx, valuePrefix+key).Result()
	return err == nil && n > 0
}

// List returns the keys below a path.
func (s *Storage) List(ctx context.Context, path string, recursive bool) (keys []string, err error) {
	prefix := strings.TrimSuffix(path, "/") + "/"
	found := s.client.Scan(ctx, 0, valuePrefix+prefix+"*", scanCount).Iterator()
	for found.Next(ctx) {
		key := strings.TrimPrefix(found.Val(), valuePrefix)
		if recursive || !strings.Contains(strings.TrimPrefix(key, prefix), "/") {
			keys = append(keys, key)
		}
	}
	return keys, found.Err()
}

// Stat returns what is known of a value.
func (s *Storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	all, err := s.client.HGetAll(ctx, valuePrefix+key).Result()
	if err == nil && len(all) == 0 {
		err = client.Nil
	}
	if err != nil {
		return certmagic.KeyInfo{}, known(err)
	}
	modified, err := strconv.ParseInt(all[fieldModified], 10, 64)
	return certmagic.KeyInfo{
		Key: key, Modified: time.UnixMilli(modified), Size: int64(len(all[fieldValue])), IsTerminal: true,
	}, err
}

// Lock waits for a lock, and keeps it until Unlock, or until the process ends.
func (s *Storage) Lock(ctx context.Context, name string) error {
	l := &lock{token: fmt.Sprintf("%p %d", s, time.Now().UnixNano()), stop: make(chan struct{}), ended: make(chan struct{})}
	for {
		got, err := s.client.SetNX(ctx, lockPrefix+name, l.token, LockTime).Result()
		if err != nil {
			return err
		}
		if got {
			break
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	s.held[name] = l
	s.mu.Unlock()
	go s.keep(name, l)
	return nil
}

// keep prolongs a lock.
func (s *Storage) keep(name string, l *lock) {
	defer close(l.ended)
	ticker := time.NewTicker(LockTime / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = prolong.Run(context.Background(), s.client, []string{lockPrefix + name}, l.token, LockTime.Milliseconds()).Err()
		case <-l.stop:
			return
		}
	}
}

// Unlock gives a lock back.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	l, found := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if !found {
		return fmt.Errorf("%s is not locked", name)
	}
	close(l.stop)
	<-l.ended
	return unlock.Run(ctx, s.client, []string{lockPrefix + name}, l.token).Err()
}

// known makes the error of what does not exist the one that Caddy knows.
func known(err error) error {
	if errors.Is(err, client.Nil) {
		return fs.ErrNotExist
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner      = (*Storage)(nil)
	_ caddy.CleanerUpper     = (*Storage)(nil)
	_ caddy.StorageConverter = (*Storage)(nil)
	_ caddyfile.Unmarshaler  = (*Storage)(nil)
	_ certmagic.Storage      = (*Storage)(nil)
)
