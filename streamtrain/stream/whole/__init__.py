"""What has to be known of a whole data set, or of several, before the first minibatch: parts, lengths, shares."""
