package images

// aptUser is the user that apt reads archives as.
const aptUser = 42

// localArchive is an archive of packages inside an image.
func (b *builder) localArchive(index map[string]debian, installed []debian, names []string) ([]file, error) {
	return nil, nil
}
