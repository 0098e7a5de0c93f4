package keyvault

import (
	"container/list"
	"sync"
)

// seenRevisions are the highest proved revisions of the names that were used last: a lower one later means that the
// store was rolled back. Only a revision that opened under the record's key, or that an OK acknowledged for what was
// sealed, is proved. Any other number may be made up.
type seenRevisions struct {
	limit int
	file  *revisionFile // nil for none

	mu     sync.Mutex
	byName map[seenName]*list.Element
	recent *list.List // of *seenRevision, the last used in front
}

type seenName struct{ tenant, keyID string }

type seenRevision struct {
	name     seenName
	revision int64
}

func newSeenRevisions(limit int, file *revisionFile) *seenRevisions {
	return &seenRevisions{limit: limit, file: file, byName: map[seenName]*list.Element{}, recent: list.New()}
}

// get returns the highest proved revision of a name, 0 if none is remembered. Its error is an ErrInvalidRequest for a
// file of revisions that is none.
func (s *seenRevisions) get(key *DataKey, keyID string) (int64, error) {
	remembered := s.remembered(key, keyID)
	if s.file == nil {
		return remembered, nil
	}
	kept, err := s.file.get(key, keyID)
	return max(remembered, kept), err
}

func (s *seenRevisions) remembered(key *DataKey, keyID string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.byName[seenName{key.tenant, keyID}]; ok {
		return found.Value.(*seenRevision).revision
	}
	return 0
}

// note remembers a revision that was proved under this key, unless a higher one is remembered.
func (s *seenRevisions) note(key *DataKey, keyID string, revision int64) {
	s.remember(key, keyID, revision)
	if s.file != nil {
		s.file.note(key, keyID, revision)
	}
}

// together writes the file once for what do notes, which must not wait.
func (s *seenRevisions) together(do func()) {
	if s.file == nil {
		do()
		return
	}
	s.file.together(do)
}

func (s *seenRevisions) remember(key *DataKey, keyID string, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := seenName{key.tenant, keyID}
	if found, ok := s.byName[name]; ok {
		about := found.Value.(*seenRevision)
		about.revision = max(about.revision, revision)
		s.recent.MoveToFront(found)
		return
	}
	s.byName[name] = s.recent.PushFront(&seenRevision{name, revision})
	if s.recent.Len() > s.limit {
		oldest := s.recent.Remove(s.recent.Back()).(*seenRevision)
		delete(s.byName, oldest.name)
	}
}

// checkSeen fails if the server shows a revision that cannot be, or one below what was proved before the call.
func checkSeen(keyID string, revision, floor int64) error {
	if revision < 1 {
		return serverFailure("the server answered Read of %s with the invalid revision %d", keyID, revision)
	}
	if revision < floor {
		return &RolledBack{KeyID: keyID, Revision: revision, Seen: floor}
	}
	return nil
}
