package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"
)

var errStorageDown = errors.New("the storage is down")

// fakeStorage is a storage in memory, which can be in trouble.
type fakeStorage struct {
	mu      sync.Mutex // guards what follows
	docs    map[string][]byte
	locks   map[string]chan struct{} // closed when it is given back
	trouble func(ctx context.Context, call string) error
	calls   int // under way
	most    int // at a time
	made    map[string]int
}

func newFakeStorage() *fakeStorage {
	return &fakeStorage{
		docs:  make(map[string][]byte),
		locks: make(map[string]chan struct{}),
		made:  make(map[string]int),
	}
}

// be puts the storage into trouble, or out of it if f is nil.
func (s *fakeStorage) be(f func(ctx context.Context, call string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = f
}

// down is a trouble: calls fail.
func down(context.Context, string) error { return errStorageDown }

// failing is a trouble: one kind of call fails.
func failing(kind string) func(context.Context, string) error {
	return func(_ context.Context, call string) error {
		if call == kind {
			return errStorageDown
		}
		return nil
	}
}

// slow is a trouble: calls take a time, whatever their context says.
func slow(d time.Duration) func(context.Context, string) error {
	return func(context.Context, string) error {
		time.Sleep(d)
		return nil
	}
}

// slowToLoad is a trouble: every call that looks at it is too late.
func slowToLoad(_ context.Context, call string) error {
	if call == "Load" {
		time.Sleep(storageTimeout + time.Second)
	}
	return nil
}

// hanging is a trouble: calls come back when the test ends it, whatever their
// context says.
func hanging() (trouble func(context.Context, string) error, end func()) {
	over := make(chan struct{})
	return func(context.Context, string) error {
		<-over
		return nil
	}, func() { close(over) }
}

// storingHangs is a trouble: calls of one kind are like hangingPolitely.
func storingHangs(ctx context.Context, call string) error {
	if call == "Store" {
		return hangingPolitely(ctx, call)
	}
	return nil
}

// hangingPolitely is a trouble: calls come back when their context ends.
func hangingPolitely(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// enter is the beginning of every call.
func (s *fakeStorage) enter(ctx context.Context, call string) error {
	s.mu.Lock()
	s.calls++
	s.most = max(s.most, s.calls)
	s.made[call]++
	trouble := s.trouble
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.calls--
		s.mu.Unlock()
	}()
	if trouble == nil {
		return nil
	}
	return trouble(ctx, call)
}

func (s *fakeStorage) Lock(ctx context.Context, name string) error {
	if err := s.enter(ctx, "Lock"); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		held, ok := s.locks[name]
		if !ok {
			s.locks[name] = make(chan struct{})
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *fakeStorage) Unlock(ctx context.Context, name string) error {
	if err := errors.Join(s.enter(ctx, "Unlock"), ctx.Err()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held, ok := s.locks[name]
	if !ok {
		return fs.ErrNotExist
	}
	close(held)
	delete(s.locks, name)
	return nil
}

func (s *fakeStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.enter(ctx, "Load"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := s.docs[key]; ok {
		return value, nil
	}
	return nil, fs.ErrNotExist
}

func (s *fakeStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.enter(ctx, "Store"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[key] == nil {
		return errors.New("stored without the lock")
	}
	s.docs[key] = value
	return nil
}

// put replaces the document at key by hand.
func (s *fakeStorage) put(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs[key] = []byte(value)
}

// wipe deletes everything, locks included.
func (s *fakeStorage) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.docs)
	for name, held := range s.locks {
		close(held)
		delete(s.locks, name)
	}
}

// keys returns the documents there are.
func (s *fakeStorage) keys() (keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.docs {
		keys = append(keys, key)
	}
	return keys
}

// count returns how many calls of a kind were made.
func (s *fakeStorage) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made[call]
}

// atATime returns how many calls are under way, and how many were at most.
func (s *fakeStorage) atATime() (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.most
}

// get returns a document as it is.
func (s *fakeStorage) get(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.docs[key])
}

// states returns what a document says.
func (s *fakeStorage) states(tb testing.TB, key string) words {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var content documentContent
	if value, ok := s.docs[key]; ok {
		if err := json.Unmarshal(value, &content); err != nil {
			tb.Fatalf("%s is %s: %v", key, value, err)
		}
	}
	return content.words()
}

// expectUnlocked checks that no lock is held.
func (s *fakeStorage) expectUnlocked(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.locks {
		tb.Errorf("%s is still locked", name)
	}
}
